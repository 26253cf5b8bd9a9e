"""One kind of change: what a holder does with its database, and leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import Final, Literal, LiteralString, Self

import psycopg

from tests.hygiene.judge import Subject
from tests.services import with_database

Isolation = Literal["database", "schema"]

ISOLATIONS: Final[tuple[Isolation, ...]] = ("database", "schema")
NOWHERE: Final = frozenset[Isolation]()
IN_SCHEMA: Final = frozenset[Isolation]({"schema"})
EVERYWHERE: Final = frozenset[Isolation](ISOLATIONS)

FORBIDDEN: Final = "42501"
"""PostgreSQL's code for: insufficient privilege."""


@dataclass(slots=True)
class Holder:
    """Who has the lease. Connections that are opened here stay open until the next lease was judged."""

    subject: Subject
    _held: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        """Nothing is open yet."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close what is still open, as far as it is."""
        self.leave()

    def connect(self) -> psycopg.Connection:
        """One more connection with the lease's URL, which outlives the lease."""
        return self._hold(self.subject.url)

    def connect_elsewhere(self, database: str) -> psycopg.Connection:
        """A connection to another database of the server, with the lease's login."""
        return self._hold(with_database(self.subject.url, database))

    def run(self, *statements: str) -> None:
        """Run statements, each by itself, in a connection that is closed then."""
        if statements:
            with psycopg.connect(self.subject.url, autocommit=True) as connection:
                self.run_in(connection, *statements)

    def run_in(self, connection: psycopg.Connection, *statements: str) -> None:
        """Run statements in this connection."""
        for statement in statements:
            connection.execute(self._literal(statement))

    def run_as_superuser(self, *statements: str) -> None:
        """Run statements in the same database, as somebody who may do anything."""
        if statements:
            with psycopg.connect(self.subject.inside, autocommit=True) as connection:
                self.run_in(connection, *statements)

    def leave(self) -> None:
        """Close what is still open, as far as it is."""
        self._held.close()

    def keep(self, connection: psycopg.Connection) -> psycopg.Connection:
        """Close this one with the others."""
        self._held.callback(_close, connection)
        return connection

    def _hold(self, url: str) -> psycopg.Connection:
        return self.keep(psycopg.connect(url, autocommit=True))

    def _literal(self, statement: str) -> LiteralString:
        """With the lease's own names; ``@schema@`` is public where the lease is a database."""
        names = {
            "@login@": self.subject.user,
            "@database@": self.subject.database,
            "@schema@": self.subject.schema or "public",
        }
        for name, value in names.items():
            statement = statement.replace(name, value)
        return statement  # type: ignore[return-value, unused-ignore]


@dataclass(frozen=True, slots=True)
class Change:
    """A kind of change.

    Attributes:
        name: what is changed; the test's name.
        sql: what the holder runs, each statement by itself, in one connection.
        left_open: what it runs in another connection, which is still open when the lease is released.
        superuser: what somebody with all rights runs in that database meanwhile.
        act: what it does that is not SQL alone.
        unseen: where the judge sees no difference, also when nobody cleans: nothing is left that anybody could tell.
        refused: where PostgreSQL does not let a holder do it; the last statement is the one that is refused.
        refusal: the code of the error.
        since: the first version that can do this.
        until: the last.
    """

    name: str
    sql: tuple[str, ...] = ()
    left_open: tuple[str, ...] = ()
    superuser: tuple[str, ...] = ()
    act: Callable[[Holder], None] | None = None
    unseen: frozenset[Isolation] = NOWHERE
    refused: frozenset[Isolation] = NOWHERE
    refusal: str = FORBIDDEN
    since: int = 15
    until: int = 99

    def __str__(self) -> str:
        """Its name."""
        return self.name

    def concerns(self, major: int) -> bool:
        """Whether there is such a thing in this version."""
        return self.since <= major <= self.until

    def make(self, holder: Holder) -> None:
        """Do it."""
        holder.run(*self.sql)
        if self.left_open:
            holder.run_in(holder.connect(), *self.left_open)
        if self.act is not None:
            self.act(holder)
        holder.run_as_superuser(*self.superuser)


def change(name: str, *sql: str, unseen: frozenset[Isolation] = NOWHERE) -> Change:
    """A change by SQL."""
    return Change(name, sql=sql, unseen=unseen)


def without_trace(name: str, *sql: str) -> Change:
    """Something after which the database is as it was, for whoever looks at it."""
    return Change(name, sql=sql, unseen=EVERYWHERE)


def by(act: Callable[[Holder], None], name: str, *, unseen: frozenset[Isolation] = NOWHERE) -> Change:
    """A change that is not SQL alone."""
    return Change(name, act=act, unseen=unseen)


def left_open(name: str, *statements: str) -> Change:
    """Something in a connection that is still open when the lease is released."""
    return Change(name, left_open=statements)


def of_a_database(name: str, *sql: str, unseen: frozenset[Isolation] = NOWHERE) -> Change:
    """A change that only the owner of a whole database can make: with a schema, PostgreSQL refuses its last statement."""
    return Change(name, sql=sql, unseen=unseen, refused=IN_SCHEMA)


def refused(name: str, *sql: str, code: str = FORBIDDEN) -> Change:
    """What no holder can do: PostgreSQL refuses the last statement."""
    return Change(name, sql=sql, refused=EVERYWHERE, refusal=code)


def between(since: int, until: int, one: Change) -> Change:
    """The same, only with these versions of PostgreSQL."""
    return replace(one, since=since, until=until)


def _close(connection: psycopg.Connection) -> None:
    with suppress(psycopg.Error):
        connection.close()
