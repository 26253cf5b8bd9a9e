"""Every kind of change, and where it is made.

A *place* is a version, an isolation, and the service's role there (a superuser or a plain role). A default run makes the
kinds in ``EVERYWHERE_KINDS`` in both isolations of the newest version. Of the older versions and of the plain role, each of
these kinds has one alternating place. A default run also tries each kind that PostgreSQL refuses in one place.
``FRESHDB_HYGIENE=turns`` makes the kinds in ``EVERYWHERE_KINDS`` in both isolations of every version, and each other kind in
one place. ``FRESHDB_HYGIENE=all`` makes every kind in every place.

``python -m tests.hygiene`` prints the catalogue with its counts.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tests.hygiene.change import ISOLATIONS, Change, Isolation
from tests.hygiene.changes_cluster import CLUSTER
from tests.hygiene.changes_objects import OBJECTS
from tests.hygiene.changes_privileges import PRIVILEGES
from tests.hygiene.changes_rows import ROWS
from tests.hygiene.changes_sequences import SEQUENCES
from tests.hygiene.changes_sessions import SESSIONS
from tests.hygiene.changes_tables import TABLE_KINDS

CATALOGUE: Final[tuple[Change, ...]] = (
    *(*ROWS, *SEQUENCES, *TABLE_KINDS, *OBJECTS, *PRIVILEGES, *SESSIONS, *CLUSTER),
)


class Reach(StrEnum):
    """Extent of a run.

    Attributes:
        USUAL: the main kinds (``EVERYWHERE_KINDS``) on the newest version in both isolations, alternating on an older one,
            and some of them as a plain role. Of the other kinds, those that PostgreSQL refuses.
        TURNS: the main kinds in every place, and each other kind in one place.
        ALL: every kind in every place.
    """

    USUAL = "usual"
    TURNS = "turns"
    ALL = "all"


_ROLES_TURNS: Final = 3
"""Number of kinds of which one is made as a plain role, too."""

REACH: Final = Reach(os.environ.get("FRESHDB_HYGIENE", "usual"))

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
    """A place in which changes are made."""

    major: int
    isolation: Isolation
    plain: bool = False

    def __str__(self) -> str:
        """Return the place as the tests' names have it."""
        return f"{self.major}-{self.isolation}{'-plain' if self.plain else ''}"

    @property
    def extensions(self) -> tuple[str, ...]:
        """Extensions of the template. The newer versions' bundle has none that a database's owner may create or drop.

        A plain role cannot move one into a schema.
        """
        return ("citext",) if self.major == 15 and not (self.plain and self.isolation == "schema") else ()

    def allows(self, change: Change) -> bool:
        """Return whether the place has the objects that the change needs."""
        in_vain = "EXTENSION citext" in " ".join(change.sql) and not self.extensions
        return change.concerns(self.major) and not in_vain


def places_of(majors: Sequence[int], *, plain: bool = False) -> list[Place]:
    """Return every version in both isolations."""
    return [Place(major, isolation, plain) for major in majors for isolation in ISOLATIONS]


def plan(majors: Sequence[int], reach: Reach = REACH) -> list[tuple[Place, Change]]:
    """Return the changes with their places, place by place."""
    places, plain = places_of(majors), places_of(majors, plain=True)
    chosen: dict[Place, list[Change]] = {place: [] for place in (*places, *plain)}
    for turn, change in enumerate(CATALOGUE):
        for place in _places_for(change, turn, [one for one in places if one.allows(change)], reach):
            chosen[place].append(change)
        for place in _plain_places_for(change, [one for one in plain if one.allows(change)], reach):
            chosen[place].append(change)
    return [(place, change) for place in chosen for change in chosen[place]]


def _plain_places_for(change: Change, places: list[Place], reach: Reach) -> list[Place]:
    if reach is Reach.ALL:
        return places
    allowed = [place for place in places if place.isolation not in change.refused]
    if change.name not in EVERYWHERE_KINDS or not allowed:
        return []
    turn, has_none = divmod(sorted(EVERYWHERE_KINDS).index(change.name), _ROLES_TURNS)
    return [] if has_none else [allowed[turn % len(allowed)]]


def _places_for(change: Change, turn: int, places: list[Place], reach: Reach) -> set[Place]:
    if reach is Reach.ALL or (reach is Reach.TURNS and change.name in EVERYWHERE_KINDS):
        return set(places)
    if change.name in EVERYWHERE_KINDS:
        newest = max(place.major for place in places)
        older = [place for place in places if place.major != newest]
        return {place for place in places if place.major == newest} | (
            {older[turn % len(older)]} if older else set()
        )
    refused = [place for place in places if place.isolation in change.refused]
    allowed = [place for place in places if place.isolation not in change.refused]
    in_turn = refused[turn % len(refused) :][:1] if refused else []
    if reach is Reach.TURNS and allowed:
        in_turn.append(allowed[turn % len(allowed)])
    return set(in_turn)
