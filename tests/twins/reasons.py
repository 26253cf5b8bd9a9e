"""The differences between a reused database and a fresh one that are known, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final, Literal

from tests.twins.compare import Difference
from tests.twins.probes import Isolation

Role = Literal["superuser", "plain"]
_ISOLATIONS: Final[tuple[Isolation, ...]] = ("database", "schema")
_ROLES: Final[tuple[Role, ...]] = ("superuser", "plain")


@dataclass(frozen=True, slots=True)
class Reason:
    """Why differences of some probes stay.

    Attributes:
        text: the reason.
        places: patterns of a probe's name and the path in its result.
        isolations: isolations for which it holds.
        roles: roles of the service for which it holds.
    """

    text: str
    places: tuple[str, ...]
    isolations: tuple[Isolation, ...] = _ISOLATIONS
    roles: tuple[Role, ...] = _ROLES

    def explains(self, difference: Difference, isolation: Isolation, role: Role) -> bool:
        """Tell whether this is the reason of a difference."""
        place = f"{difference.probe}: {difference.path}"
        holds = isolation in self.isolations and role in self.roles
        return holds and any(fnmatchcase(place, pattern) for pattern in self.places)


REASONS: Final = (
    Reason(
        "counters of reads go on for tables that were only read",
        ("counters.reads: *", "counters.indexes: *", "counters.pages_*: *"),
    ),
    Reason(
        "all counters go on in a schema, because a reset of a counter shows in the whole shared database",
        ("counters.*: *",),
        isolations=("schema",),
    ),
    Reason("counters of partitioned tables go on", ("counters.maintenance: public.event/*",)),
    Reason("only a superuser may reset counters", ("counters.*: *",), roles=("plain",)),
    Reason(
        "numbers of indexes and TOAST tables of emptied tables are those after a truncation. Only a superuser prepares the "
        "template for it, and the planner does not use them",
        (
            "statistics.indexes: */relpages",
            "statistics.indexes: */reltuples",
            "statistics.toast: */reltuples",
        ),
        roles=("plain",),
    ),
    Reason(
        "ids of transactions and commands, and xmax of rows that were locked, as a foreign key does",
        tuple(f"order.system_columns: */{number}" for number in (1, 2, 3, 4)),
    ),
    Reason(
        "a table without rows may keep one block of deleted ones: new rows have a later position, in the same order",
        tuple(
            f"{place}: {table}/*"
            for place in ("order.inserted", "plans.heap_fetches")
            for table in ("empty_one", "empty_two", "empty_measured", "audit_entry", "hashed", "scratch")
        ),
    ),
    Reason(
        "PostgreSQL keeps the schemas of temporary tables",
        ("catalogs.temporary_schemas: *", "catalogs.row_counts: pg_namespace"),
    ),
    Reason("counters of the whole database go on", ("counters.incidents: *",)),
    Reason(
        "privileges on a shared database name the logins of other leases",
        ("catalogs.database: */datacl*",),
        isolations=("schema",),
    ),
)


def without_reason(differences: list[Difference], isolation: Isolation, role: Role) -> list[Difference]:
    """Return the differences that no reason explains."""
    return [
        one for one in differences if not any(reason.explains(one, isolation, role) for reason in REASONS)
    ]
