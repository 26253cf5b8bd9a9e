"""What holders did and saw: the raw material that ``checker`` judges.

All instants are of one machine's monotonic clock, in seconds, taken by the one who asks, before asking and after the answer.
When the service acted lies somewhere in between.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path


class Kind(StrEnum):
    """What was asked."""

    ACQUIRE = "acquire"
    RENEW = "renew"
    RELEASE = "release"
    VISIT = "visit"
    """To the database: what had been written there was read, and something written."""
    KNOCK = "knock"
    """With the URL of a lease that was given back, or has run out."""


OK = "ok"


@dataclass(frozen=True, slots=True)
class Op:
    """One question and its answer.

    Attributes:
        kind: what was asked.
        lease: of which lease; empty for an acquire that failed.
        began: when it was asked.
        ended: when the answer was there.
        outcome: ``ok``, or the code of the error, or what kind of silence it was.
        place: server, database and schema of the lease.
        pool: what was asked for.
        until: the end of the lease that was acknowledged by an acquire or a renewal.
        seen: who had written there, of a visit.
        wrote: who wrote there then.
    """

    kind: Kind
    lease: str
    began: float
    ended: float
    outcome: str = OK
    place: str = ""
    pool: str = ""
    until: float = 0.0
    seen: tuple[str, ...] = ()
    wrote: str = ""

    @property
    def ok(self) -> bool:
        """Whether it was done."""
        return self.outcome == OK


@dataclass(frozen=True, slots=True)
class Fault:
    """What was done to the service, or to what it stands on.

    Attributes:
        what: in words.
        began: when.
        ended: when everything was there again.
        unreachable: leased databases could not be reached.
        forgets: Redis lost what it knew: each lease got a full TTL again.
    """

    what: str
    began: float
    ended: float
    unreachable: bool = False
    forgets: bool = False


@dataclass(slots=True)
class History:
    """Of one run."""

    ops: list[Op] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """One JSON object per line."""
        lines = [{"fault": asdict(one)} for one in self.faults] + [{"op": asdict(one)} for one in self.ops]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    @classmethod
    def read(cls, path: Path) -> History:
        """What ``write`` wrote."""
        made = cls()
        for line in path.read_text().splitlines():
            said = json.loads(line)
            if "fault" in said:
                made.faults.append(Fault(**said["fault"]))
            else:
                values = {**said["op"], "kind": Kind(said["op"]["kind"]), "seen": tuple(said["op"]["seen"])}
                made.ops.append(Op(**values))
        return made
