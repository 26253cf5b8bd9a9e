"""One kind of change that a holder makes to its database."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import Final, Literal, LiteralString, Self

import psycopg

from tests.hygiene.snapshot import Subject
from tests.services import with_database

Isolation = Literal["database", "schema"]

ISOLATIONS: Final[tuple[Isolation, ...]] = ("database", "schema")
NOWHERE: Final = frozenset[Isolation]()
IN_SCHEMA: Final = frozenset[Isolation]({"schema"})
EVERYWHERE: Final = frozenset[Isolation](ISOLATIONS)

FORBIDDEN: Final = "42501"
"""PostgreSQL's code for insufficient privilege."""


@dataclass(slots=True)
class Holder:
    """The holder of a lease. Its connections stay open until the next lease was judged."""

    subject: Subject
    _held: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        """Return the holder, without connections."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the connections that are still open."""
        self.leave()

    def connect(self) -> psycopg.Connection:
        """Open one more connection with the lease's URL. It outlives the lease."""
        return self._hold(self.subject.url)

    def connect_elsewhere(self, database: str) -> psycopg.Connection:
        """Open a connection to another database of the server, with the lease's login."""
        return self._hold(with_database(self.subject.url, database))

    def run(self, *statements: str) -> None:
        """Run statements, each by itself, in a new connection, and close it."""
        if statements:
            with psycopg.connect(self.subject.url, autocommit=True) as connection:
                self.run_in(connection, *statements)

    def run_in(self, connection: psycopg.Connection, *statements: str) -> None:
        """Run statements in this connection."""
        for statement in statements:
            connection.execute(self._literal(statement))

    def run_as_superuser(self, *statements: str) -> None:
        """Run statements in the same database, as a superuser."""
        if statements:
            with psycopg.connect(self.subject.inside, autocommit=True) as connection:
                self.run_in(connection, *statements)

    def leave(self) -> None:
        """Close the connections that are still open."""
        self._held.close()

    def keep(self, connection: psycopg.Connection) -> psycopg.Connection:
        """Close this connection together with the others."""
        self._held.callback(_close, connection)
        return connection

    def _hold(self, url: str) -> psycopg.Connection:
        return self.keep(psycopg.connect(url, autocommit=True))

    def _literal(self, statement: str) -> LiteralString:
        """Insert the lease's names. ``@schema@`` is public where the lease is a database."""
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
        name: description of the change, which is in the test's name.
        sql: statements of the holder, each run by itself, in one connection.
        left_open: statements in another connection, which is still open when the lease is released.
        superuser: statements that a superuser runs in the same database.
        act: function for a change that is more than SQL.
        unseen: isolations in which the change leaves nothing to clean, so that the snapshots do not differ.
        refused: isolations in which PostgreSQL refuses the last statement.
        refusal: code of that error.
        since: first version in which the change is possible.
        until: last version in which it is possible.
    """

    name: str
    sql: tuple[str, ...] = ()
    left_open: tuple[str, ...] = ()
    superuser: tuple[str, ...] = ()
    function: Callable[[Holder], None] | None = None
    unseen: frozenset[Isolation] = NOWHERE
    refused: frozenset[Isolation] = NOWHERE
    refusal: str = FORBIDDEN
    since: int = 15
    until: int = 99

    def __str__(self) -> str:
        """Return the name."""
        return self.name

    def concerns(self, major: int) -> bool:
        """Return whether the change is possible in this version."""
        return self.since <= major <= self.until

    def apply(self, holder: Holder) -> None:
        """Make the change."""
        holder.run(*self.sql)
        if self.left_open:
            holder.run_in(holder.connect(), *self.left_open)
        if self.function is not None:
            self.function(holder)
        holder.run_as_superuser(*self.superuser)


def change(name: str, *sql: str, unseen: frozenset[Isolation] = NOWHERE) -> Change:
    """Return a change by SQL."""
    return Change(name, sql=sql, unseen=unseen)


def without_leftovers(name: str, *sql: str) -> Change:
    """Return a change that leaves nothing to clean."""
    return Change(name, sql=sql, unseen=EVERYWHERE)


def by_function(
    function: Callable[[Holder], None], name: str, *, unseen: frozenset[Isolation] = NOWHERE
) -> Change:
    """Return a change that is more than SQL."""
    return Change(name, function=function, unseen=unseen)


def left_open(name: str, *statements: str) -> Change:
    """Return a change in a connection that is still open when the lease is released."""
    return Change(name, left_open=statements)


def database_owner_only(name: str, *sql: str, unseen: frozenset[Isolation] = NOWHERE) -> Change:
    """Return a change that only a database's owner can make. With a schema, PostgreSQL refuses its last statement."""
    return Change(name, sql=sql, unseen=unseen, refused=IN_SCHEMA)


def refused(name: str, *sql: str, code: str = FORBIDDEN) -> Change:
    """Return a change that no holder can make, because PostgreSQL refuses its last statement."""
    return Change(name, sql=sql, refused=EVERYWHERE, refusal=code)


def for_versions(since: int, until: int, one: Change) -> Change:
    """Limit changes to these versions of PostgreSQL."""
    return replace(one, since=since, until=until)


def _close(connection: psycopg.Connection) -> None:
    with suppress(psycopg.Error):
        connection.close()
