"""Every kind of change, and where it is made.

A *place* is a version, an isolation, and whether the service is a superuser there or a plain role. A run makes each of
``EVERYWHERE_KINDS`` in one place, and a share of the other kinds (``tests.shares``). Its places are those of the newest
version's superuser, and those of one other version or role. ``make hygiene`` makes every kind in every place.

``python -m tests.hygiene`` prints the catalogue with its counts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from tests.hygiene.change import ISOLATIONS, Change, Isolation
from tests.hygiene.changes_cluster import CLUSTER
from tests.hygiene.changes_objects import OBJECTS
from tests.hygiene.changes_privileges import PRIVILEGES
from tests.hygiene.changes_rows import ROWS
from tests.hygiene.changes_sequences import SEQUENCES
from tests.hygiene.changes_sessions import SESSIONS
from tests.hygiene.changes_tables import TABLE_KINDS
from tests.shares import ALL, current_turn, share

CATALOGUE: Final[tuple[Change, ...]] = (
    *(*ROWS, *SEQUENCES, *TABLE_KINDS, *OBJECTS, *PRIVILEGES, *SESSIONS, *CLUSTER),
)


OTHER_SHARES: Final = 80
"""Shares of the kinds that are not in ``EVERYWHERE_KINDS``."""

IMPORTANT_KINDS: Final = frozenset(
    {
        # Rows.
        "rows in every unseeded table",
        "a row in a seeded table",
        "rows that refer to each other",
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
        "a check added without validation",
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
        "the login's password changed",
        "a setting of the login",
        "a setting of the login in this database",
        "several settings of the database",
        "the database closed to all connections",
        "the database dropped by its holder",
        "a large object in another database",
        "the usage statistics reset after rows were changed",
    }
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a change is made."""

    major: int
    isolation: Isolation
    plain: bool = False

    def __str__(self) -> str:
        """Return the place as it appears in the tests' names."""
        return f"{self.major}-{self.isolation}{'-plain' if self.plain else ''}"

    @property
    def extensions(self) -> tuple[str, ...]:
        """Extensions of the template. The bundles of newer versions have none that a database's owner could create or drop.

        A plain role cannot move an extension into a schema.
        """
        return ("citext",) if self.major == 15 and not (self.plain and self.isolation == "schema") else ()

    def allows(self, change: Change) -> bool:
        """Return whether the change is possible in this place."""
        impossible = "EXTENSION citext" in " ".join(change.sql) and not self.extensions
        return change.concerns(self.major) and not impossible


class Case(NamedTuple):
    """A kind of change in one place."""

    place: Place
    change: Change

    def __str__(self) -> str:
        """Return the case as it appears in the tests' names."""
        return f"{self.place}-{self.change}"


def places_of(majors: Sequence[int], *, plain: bool = False) -> list[Place]:
    """Every version in both isolations."""
    return [Place(major, isolation, plain) for major in majors for isolation in ISOLATIONS]


def places_of_turn(majors: Sequence[int], turn: int) -> tuple[list[Place], int]:
    """Return the places of a turn, each of which costs a service, and the turn of the shares there.

    They are those of the newest version's superuser, and those of one other version or role.
    """
    newest, *others = [places_of([major], plain=plain) for plain in (False, True) for major in majors]
    if ALL:
        return [place for places in (newest, *others) for place in places], 0
    turns, other = divmod(turn, len(others))
    return [*newest, *others[other]], turns + other


def cases_in(places: Sequence[Place]) -> list[Case]:
    """Return every kind in each place that has what it changes."""
    return [Case(place, change) for place in places for change in CATALOGUE if place.allows(change)]


def plan(majors: Sequence[int], turn: int | None = None) -> list[Case]:
    """Return what a turn makes where, place by place."""
    places, turn = places_of_turn(majors, current_turn() if turn is None else turn)
    kinds: dict[str, list[Case]] = defaultdict(list)
    for case in cases_in(places):
        kinds[case.change.name if case.change.name in IMPORTANT_KINDS else ""].append(case)
    chosen = [
        case
        for kind, cases in kinds.items()
        for case in share(cases, len(places) if kind else OTHER_SHARES, turn)
    ]
    return sorted(chosen, key=lambda case: places.index(case.place))
