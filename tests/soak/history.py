"""Record of the actions and observations of holders, which ``checker`` reads.

All instants are in seconds of one machine's monotonic clock. The caller takes them before the request and after the answer.
The service acted at some time in between.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path


class Kind(StrEnum):
    """Kind of an operation."""

    ACQUIRE = "acquire"
    RENEW = "renew"
    RELEASE = "release"
    QUERY = "query"
    """Read the marks in the database, then write one."""
    RECONNECT = "reconnect"
    """Connect with the URL of a lease that was released or has expired."""


OK = "ok"


@dataclass(frozen=True, slots=True)
class Op:
    """One request and its answer.

    Attributes:
        kind: the kind of the operation.
        lease: the lease's id, empty for an acquire that failed.
        began: the time of the request.
        ended: the time of the answer.
        outcome: ``ok``, the code of the error, or the name of the connection error.
        place: server, database and schema of the lease.
        pool: the requested pool.
        until: the end of the lease that an acquire or a renewal acknowledged.
        seen: the marks that a query found.
        wrote: the mark that the query wrote.
    """

    kind: Kind
    lease: str
    began: float
    ended: float
    outcome: str = OK
    database: str = ""
    pool: str = ""
    until: float = 0.0
    seen: tuple[str, ...] = ()
    wrote: str = ""

    @property
    def ok(self) -> bool:
        """Return true if the operation succeeded."""
        return self.outcome == OK


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of the service, or of a server that it depends on.

    Attributes:
        what: the description.
        began: the time at which the fault began.
        ended: the time at which every replica was ready again.
        unreachable: leased databases could not be reached.
        forgets: Redis lost its data, so each lease got a full TTL again.
    """

    description: str
    began: float
    ended: float
    unreachable: bool = False
    loses_data: bool = False


@dataclass(slots=True)
class History:
    """Operations and faults of one run."""

    ops: list[Op] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Write one JSON object per line."""
        lines = [{"fault": asdict(one)} for one in self.faults] + [{"op": asdict(one)} for one in self.ops]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    @classmethod
    def read(cls, path: Path) -> History:
        """Read a file that ``write`` has written."""
        history = cls()
        for line in path.read_text().splitlines():
            record = json.loads(line)
            if "fault" in record:
                history.faults.append(Fault(**record["fault"]))
            else:
                values = {
                    **record["op"],
                    "kind": Kind(record["op"]["kind"]),
                    "seen": tuple(record["op"]["seen"]),
                }
                history.ops.append(Op(**values))
        return history
