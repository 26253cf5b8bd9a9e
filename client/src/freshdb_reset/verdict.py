"""The verdict that cleaning in place is not enough, and the leftovers of a holder in a database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Leftovers:
    """Leftovers of a holder in a database.

    Attributes:
        connections: number of connections that were still open.
        prepared_transactions: number of transactions that were prepared, and neither committed nor rolled back.
        advisory_locks: number of advisory locks that those connections held.
        objects: descriptions of objects that were created or redefined, at most 20.
    """

    connections: int = 0
    prepared_transactions: int = 0
    advisory_locks: int = 0
    objects: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Return the entries that are not empty, as JSON values."""
        return {name: left for name, left in asdict(self).items() if left}


class Cause(StrEnum):
    """Kinds of reasons to rebuild a used database."""

    UNKNOWN = "unknown"
    """There is no baseline of the database, or this process has not read a fresh copy of the template yet."""
    LOGIN = "login"
    """The login of the database does not exist any more."""
    SESSIONS = "sessions"
    """A session is in the database, or is being started, that the service cannot terminate."""
    PREPARED = "prepared"
    """The holder left prepared transactions."""
    STATISTICS = "statistics"
    """The server lost its statistics: it crashed, or a superuser reset them."""
    CATALOGS = "catalogs"
    """Definitions differ from the template's."""
    SURROUNDINGS = "surroundings"
    """Settings, privileges or comments of the database or its login changed."""
    PLANNER = "planner"
    """Planner statistics, or the order of rows, differ from the template's, and cannot be put back."""
    ROWS = "rows"
    """Rows of the template were changed that cannot be restored, or not cheaply."""
    AUDIT = "audit"
    """An audit found a difference, or needs a fresh copy to compare with."""
    FAILED = "failed"
    """The cleaning failed."""
    ALWAYS = "always"
    """The engine rebuilds every database."""


class Unprovable(Exception):
    """It cannot be proved that cleaning in place is enough. The text is the reason. The remedy is a rebuild.

    Attributes:
        cause: kind of the reason.
        leftovers: leftovers of the holder, if they were counted already.
        objects: descriptions of objects that were redefined.
        audit: differences that an audit found.
    """

    def __init__(
        self,
        reason: str,
        leftovers: Leftovers | None = None,
        *,
        cause: Cause,
        objects: Sequence[str] = (),
        audit: Sequence[str] | None = None,
    ) -> None:
        super().__init__(reason)
        self.cause = cause
        self.leftovers = leftovers
        self.objects = tuple(objects)
        self.audit = audit
