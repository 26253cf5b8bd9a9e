"""Every kind of change, and where it is made.

A *place* is a version, an isolation, and whether the service is a superuser there or a plain role. The plan has every kind
in every place. A run has a share of the plan (``tests.shares``): each of ``EVERYWHERE_KINDS`` in one place, and some of the
other kinds. ``make hygiene`` makes every kind in every place.

``python -m tests.hygiene`` prints the catalogue with its counts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tests.hygiene.change import ISOLATIONS, Change, Isolation
from tests.hygiene.changes_cluster import CLUSTER
from tests.hygiene.changes_objects import OBJECTS
from tests.hygiene.changes_privileges import PRIVILEGES
from tests.hygiene.changes_rows import ROWS
from tests.hygiene.changes_sequences import SEQUENCES
from tests.hygiene.changes_sessions import SESSIONS
from tests.hygiene.changes_tables import TABLE_KINDS
from tests.shares import share

CATALOGUE: Final[tuple[Change, ...]] = (
    *(*ROWS, *SEQUENCES, *TABLE_KINDS, *OBJECTS, *PRIVILEGES, *SESSIONS, *CLUSTER),
)


EVERYWHERE_SHARES: Final = 12
OTHER_SHARES: Final = 100

EVERYWHERE_KINDS: Final = frozenset(
    {
        # Rows.
        "rows in every unseeded table",
        "a row in a seeded table",
        "rows that each other refers to",
        "a row that a policy hides from its owner",
        "a row that a rule keeps from being deleted",
        "a row that a trigger always keeps from being deleted",
        "a row whose deletion fires a trigger in replica sessions",
        "rows in partitions",
        "a row in an inheriting table",
        "a row in an unlogged table",
        "twenty thousand rows",
        "rows by COPY FREEZE into a table truncated in the same transaction",
        "rows deleted before a truncate that is rolled back",
        "a seeded row updated",
        "one row of a large seeded table updated",
        "a row moved to another partition",
        "a seeded row deleted with what refers to it",
        "every table truncated, sequences restarted",
        "an insert that is rolled back",
        "an insert whose savepoint is rolled back",
        "a materialized view refreshed after its table changed",
        "rows in a transaction still open at release",
        "rows of a client that vanished",
        # Sequences and identities.
        "a sequence advanced",
        "a sequence used for the first time, and rolled back",
        "a sequence set",
        "an identity restarted",
        "a sequence's cache altered",
        # Tables and what belongs to them.
        "a table created and filled",
        "a seeded table dropped, with what needs it",
        "a seeded table dropped, and created as it was, but empty",
        "two tables' names exchanged",
        "a table's storage parameter set",
        "a table's storage parameter for long values set",
        "a column added",
        "a column's type changed, with its values",
        "a column's default set",
        "a check added without looking",
        "a foreign key dropped",
        "an index created",
        "an index left invalid",
        "a partition attached",
        "a partition detached",
        "a trigger disabled",
        "a disabled trigger enabled",
        "a trigger that keeps rows from being deleted, and a row",
        "a rule dropped",
        "row security enabled",
        "a policy altered",
        "a view replaced",
        "a materialized view dropped",
        # Other objects.
        "an enum value added, and used",
        "a domain's constraint dropped",
        "a function's body replaced",
        "an operator created",
        "a cast created",
        "a text search configuration's mapping altered",
        "a statistics object created",
        "the schema dropped with everything in it",
        "a publication created",
        "a comment on a column dropped",
        "a comment on the database",
        "a large object",
        # Privileges.
        "a privilege on a table granted",
        "privileges on the schema revoked",
        "a default privilege granted",
        "everything owned dropped",
        # Sessions.
        "a locked table",
        "a cursor held over its transaction",
        "a listener",
        "a temporary table",
        "a temporary table of a session that is closed",
        "an advisory lock of a session",
        "a statement that runs for a minute",
        "a prepared transaction of a seeded table",
        # The login, the database, the server.
        "the own password changed",
        "a setting of the own login",
        "a setting of the own login in this database",
        "several settings of the database",
        "the database closed to everybody",
        "the database dropped by its holder",
        "a large object in another database",
        "the statistics of use reset after rows were changed",
    }
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a change is made."""

    major: int
    isolation: Isolation
    plain: bool = False

    def __str__(self) -> str:
        """As it stands in the tests' names."""
        return f"{self.major}-{self.isolation}{'-plain' if self.plain else ''}"

    @property
    def extensions(self) -> tuple[str, ...]:
        """What the template has: the newer versions' bundle has none that whoever owns a database could create or drop.

        A plain role cannot move one into a schema.
        """
        return ("citext",) if self.major == 15 and not (self.plain and self.isolation == "schema") else ()

    def allows(self, change: Change) -> bool:
        """Whether there is what it changes."""
        in_vain = "EXTENSION citext" in " ".join(change.sql) and not self.extensions
        return change.concerns(self.major) and not in_vain


def places_of(majors: Sequence[int], *, plain: bool = False) -> list[Place]:
    """Every version in both isolations."""
    return [Place(major, isolation, plain) for major in majors for isolation in ISOLATIONS]


def plan(majors: Sequence[int]) -> list[tuple[Place, Change]]:
    """Return what is made where, place by place."""
    places = [*places_of(majors), *places_of(majors, plain=True)]
    return [(place, change) for place in places for change in CATALOGUE if place.allows(change)]


def of_turn(cases: Sequence[tuple[Place, Change]], turn: int | None = None) -> list[tuple[Place, Change]]:
    """Return the cases that run on this turn."""
    kinds: dict[str, list[tuple[Place, Change]]] = defaultdict(list)
    for place, change in cases:
        kinds[change.name if change.name in EVERYWHERE_KINDS else ""].append((place, change))
    chosen = {
        case
        for kind, of_kind in kinds.items()
        for case in share(
            of_kind,
            EVERYWHERE_SHARES if kind else OTHER_SHARES,
            turn,
            name=lambda case: f"{case[0]} {case[1]}",
        )
    }
    return [case for case in cases if case in chosen]
