"""One attack: what a holder with a lease's URL tries, and what has to come of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeAlias
from urllib.parse import urlsplit

import psycopg
from psycopg.conninfo import make_conninfo

from tests.hygiene.change import ISOLATIONS, Holder, Isolation
from tests.hygiene.ground import Ground, Lease
from tests.hygiene.judge import Picture, Subject, differences
from tests.services import with_database

FORBIDDEN: Final = "42501"
"""PostgreSQL's code for: insufficient privilege."""
_SET_BETWEEN: Final = re.compile(r"\s*^SET default_table\w+ = .*;$", re.MULTILINE)
BOTH: Final = frozenset[Isolation](ISOLATIONS)
OF_DATABASE: Final = frozenset[Isolation]({"database"})
OF_SCHEMA: Final = frozenset[Isolation]({"schema"})


class Outcome(StrEnum):
    """What comes of an attack."""

    REFUSED = "refused"
    CLEANED = "cleaned"
    """It succeeds, and the next holder sees nothing of it; nor does a neighbour meanwhile."""
    IN_VAIN = "in vain"
    """Nobody refuses it, and it does nothing for whoever tries."""


@dataclass(slots=True)
class Stand:
    """A pool of two databases: one is the attacker's, the other one a neighbour's."""

    ground: Ground
    attacker: Lease
    neighbour: Lease
    baseline: Picture

    @classmethod
    def of(cls, ground: Ground) -> Stand:
        """Lease both, and look what a clean one is like."""
        attacker, neighbour = ground.acquire(), ground.acquire()
        return cls(ground, attacker, neighbour, _picture(ground, attacker, neighbour))

    def attacker_is_followed(self) -> list[str]:
        """Give the attacked database back, lease it again, and say what is not as it should be."""
        self.attacker = self.ground.next_of(self.attacker)
        return differences(self.baseline, _picture(self.ground, self.attacker, self.neighbour))

    def neighbour_is_followed(self) -> list[str]:
        """The same of the neighbour's, which has to be made anew."""
        with psycopg.connect(self.neighbour.subject.url, autocommit=True) as connection:
            connection.execute("CREATE TABLE makes_a_rebuild ()")
        self.neighbour = self.ground.next_of(self.neighbour)
        return differences(self.baseline, _picture(self.ground, self.neighbour, self.attacker))


def _picture(ground: Ground, lease: Lease, other: Lease) -> Picture:
    """What a lease is like, with another one beside it: in a shared database, each can be seen in the other's picture.

    Which of the two comes first, in a dump or a list, depends on their names; that is left out.
    """
    subject = other.subject
    names = re.compile(rf"\b(?:{subject.user}|{subject.schema or subject.database})\b")
    picture = {}
    for key, value in ground.judge.picture(lease.subject).items():
        text = _SET_BETWEEN.sub("", value).strip()
        if names.search(text):
            text = " ".join(sorted(names.sub("{other}", text).replace(",", " ").split()))
        picture[names.sub("{other}", key)] = text
    return picture


@dataclass(slots=True)
class Scene:
    """Where an attack takes place."""

    stand: Stand
    holder: Holder
    names: dict[str, str] = field(default_factory=dict)

    @property
    def me(self) -> Subject:
        """The attacker's lease."""
        return self.stand.attacker.subject

    @property
    def neighbour(self) -> Subject:
        """Somebody else's lease, of the same pool."""
        return self.stand.neighbour.subject

    def filled(self, statement: str) -> str:
        """A statement with the names of this scene."""
        names = {
            **self.names,
            "login": self.me.user,
            "database": self.me.database,
            "schema": self.me.schema or "public",
            "neighbour": self.neighbour.user,
            "their_database": self.neighbour.database,
            "their_schema": self.neighbour.schema or "public",
            "service": str(urlsplit(self.names["service_dsn"]).username),
        }
        if "_pid@" in statement:
            names |= {"their_pid": self._their_pid(), "service_pid": self._service_pid()}
        for name, value in names.items():
            statement = statement.replace(f"@{name}@", value)
        return statement

    def _their_pid(self) -> str:
        return str(self.as_neighbour().info.backend_pid)

    def _service_pid(self) -> str:
        with psycopg.connect(self.me.superuser) as connection:
            row = connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE application_name = 'freshdb' AND usename = %s LIMIT 1",
                [urlsplit(self.names["service_dsn"]).username],
            ).fetchone()
        assert row is not None
        return str(row[0])

    def run(self, *statements: str) -> None:
        """Run statements as the attacker, each by itself, in a connection that is closed then."""
        self.holder.run(*map(self.filled, statements))

    def left_open(self, *statements: str) -> psycopg.Connection:
        """The same, in a connection that is still open when the lease is given back."""
        connection = self.holder.connect()
        self.holder.run_in(connection, *map(self.filled, statements))
        return connection

    def elsewhere(self, database: str, *statements: str) -> psycopg.Connection:
        """The same, in another database."""
        connection = self.holder.connect_elsewhere(self.filled(database))
        self.holder.run_in(connection, *map(self.filled, statements))
        return connection

    def as_neighbour(self, database: str | None = None, **settings: str) -> psycopg.Connection:
        """A connection with the neighbour's login, which outlives the attack."""
        url = self.neighbour.url if database is None else with_database(self.neighbour.url, database)
        return self.holder.keep(psycopg.connect(make_conninfo(url, **settings), autocommit=True))

    def neighbour_finds_the_template(self) -> None:
        """Also while the attack goes on."""
        found = self.stand.neighbour_is_followed()
        assert not found, "\n".join(found)

    def superuser(self, query: str) -> object:
        """What somebody who may do anything sees, in the attacker's database."""
        with psycopg.connect(self.me.inside, autocommit=True) as connection:
            row = connection.execute(self.filled(query).encode()).fetchone()
        return None if row is None else row[0]


Afterwards: TypeAlias = Callable[[], None] | None
Act: TypeAlias = Callable[[Scene], Afterwards]


@dataclass(frozen=True, slots=True)
class Attack:
    """A row of the table.

    Attributes:
        name: what is tried.
        outcome: what comes of it.
        sql: statements, each of which is refused; for ``Outcome.REFUSED``.
        codes: PostgreSQL's codes for that.
        act: what is done; it may see for itself that nothing comes of it, and gives what to see to when the next holder is
            in.
        isolations: with which isolation.
        superuser: only where the service is a superuser; elsewhere it is the operator's to see to.
        since: the first version that can do this.
        slow: it takes seconds, and is left out by default.
    """

    name: str
    outcome: Outcome
    sql: tuple[str, ...] = ()
    codes: frozenset[str] = frozenset({FORBIDDEN})
    act: Act | None = None
    isolations: frozenset[Isolation] = BOTH
    superuser: bool = False
    since: int = 15
    slow: bool = False

    def __str__(self) -> str:
        """Its name."""
        return self.name

    def make(self, scene: Scene) -> Afterwards:
        """Try it.

        Returns:
            what to see to when the next holder is in.

        Raises:
            AssertionError: something was not refused that should be.
        """
        for statement in self.sql:
            refusal = _refusal(scene, statement)
            assert refusal in self.codes, f"{statement}: {refusal}"
        return None if self.act is None else self.act(scene)


def refused(
    name: str,
    *sql: str,
    codes: tuple[str, ...] = (),
    isolations: frozenset[Isolation] = BOTH,
    superuser: bool = False,
) -> Attack:
    """Statements that PostgreSQL refuses."""
    return Attack(
        name, Outcome.REFUSED, sql, frozenset({FORBIDDEN, *codes}), isolations=isolations, superuser=superuser
    )


def kept_out(name: str, act: Act, *, superuser: bool = False) -> Attack:
    """What is refused in another way than a statement is."""
    return Attack(name, Outcome.REFUSED, act=act, superuser=superuser)


def cleaned(name: str, act: Act, *, isolations: frozenset[Isolation] = BOTH, slow: bool = False) -> Attack:
    """What succeeds, until the lease is over."""
    return Attack(name, Outcome.CLEANED, act=act, isolations=isolations, slow=slow)


def _refusal(scene: Scene, statement: str) -> str:
    try:
        scene.run(statement)
    except psycopg.Error as error:
        return error.sqlstate or str(error)
    return "was not refused"
