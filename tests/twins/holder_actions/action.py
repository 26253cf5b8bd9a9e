"""A holder's action: the work of a holder with a leased database, and an observation of what it leaves.

The actions know nothing of an engine. They use the lease's login alone, and the names of the twin test's template
(``template.sql``) without a schema, so that they work with both isolations.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Literal, TypeAlias

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from freshdb_service.embedded import postgres_binaries

MARKER: Final = "TWINMARK"
"""Every text, name, setting and comment of a holder contains it. A search must ignore case, because index expressions and
unquoted names are in small letters."""

Isolation: TypeAlias = Literal["database", "schema"]
Connection: TypeAlias = psycopg.Connection[tuple[object, ...]]
Observation: TypeAlias = tuple[str, object]
"""A query with one value, run with the lease's login, and the value that it has after the action, but not before."""

BOTH: Final[tuple[Isolation, ...]] = ("database", "schema")
DATABASE_ONLY: Final[tuple[Isolation, ...]] = ("database",)


class Ending(Enum):
    """The end of an action's connection."""

    COMMIT = "every statement is committed on its own"
    ROLLBACK = "one transaction, rolled back"
    ABANDONED = "one transaction, left open"
    KILLED = "one transaction, in which the client dies"
    KEPT = "every statement is committed on its own, and the session stays open"


@dataclass(slots=True)
class Holder:
    """The client of one lease. ``close`` ends the sessions that an action left open on purpose.

    Attributes:
        dsn: the lease's login.
        remaining: process ids of sessions that outlive the action, because they are kept or too busy to notice their
            client's death.
    """

    dsn: str
    remaining: set[int] = field(default_factory=set)
    _connections: dict[int, Connection] = field(default_factory=dict)

    def connect(self, *, autocommit: bool = True, **options: str | int) -> Connection:
        """Open a connection, which is closed at the end of the action."""
        connection = psycopg.connect(make_conninfo(self.dsn, **options), autocommit=autocommit)
        self._connections[connection.info.backend_pid] = connection
        return connection

    def keep(self, connection: Connection) -> None:
        """Leave the connection open after the action, until ``close``."""
        self.remaining.add(connection.info.backend_pid)

    def kill(self, connection: Connection, *, is_busy: bool = False) -> None:
        """Cut the connection without a farewell, as the death of the client does."""
        if is_busy:
            self.remaining.add(connection.info.backend_pid)
        with socket.socket(fileno=os.dup(connection.fileno())) as end:
            end.shutdown(socket.SHUT_RDWR)
        connection.close()

    def end_action(self) -> None:
        """Close the connections that are not kept."""
        for pid, connection in self._connections.items():
            if pid not in self.remaining:
                connection.close()

    def close(self) -> None:
        """Close every connection."""
        for connection in self._connections.values():
            connection.close()

    def run(self, program: str, *arguments: str) -> str:
        """Run a PostgreSQL program of the server's version, such as ``pg_dump``, and return its output."""
        info = self.connect().info
        binaries = postgres_binaries(info.server_version // 10000)
        assert binaries is not None
        login = {
            "PGHOST": info.host,
            "PGPORT": str(info.port),
            "PGUSER": info.user,
            "PGPASSWORD": info.password,
            "PGDATABASE": info.dbname,
            "PGAPPNAME": MARKER,
        }
        command = [str(binaries / program), *arguments]
        done = subprocess.run(
            command, env={**os.environ, **login}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


Work: TypeAlias = Callable[[Holder], None]


@dataclass(frozen=True, slots=True)
class HolderAction:
    """The work of a holder in one lease or several.

    Attributes:
        name: description in plain words.
        does: statement, statements, or function of the holder. A function carries out its ending by itself.
        leaves: observation after the last lease, if no engine resets the database in between.
        ending: end of the connection.
        isolations: isolations whose holders have the necessary rights.
        minimum_version: oldest major version of PostgreSQL.
        rounds: number of leases in which the holder does the same.
        earlier: statements in a lease before these.
        needs: statements that a superuser runs in the database before each lease ends, as autovacuum would.
        refused: error with which PostgreSQL refuses the last statement.
    """

    name: str
    does: str | tuple[str, ...] | Work
    leaves: Observation
    ending: Ending = Ending.COMMIT
    isolations: tuple[Isolation, ...] = BOTH
    minimum_version: int = 15
    rounds: int = 1
    earlier: str | tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    refused: type[psycopg.Error] | None = None

    @property
    def leases(self) -> list[Work]:
        """The work of each lease, in order. Sessions that it keeps are open until ``Holder.close``."""
        earlier = [_complete(_work(self.earlier, Ending.COMMIT), None)] if self.earlier else []
        return earlier + [_complete(_work(self.does, self.ending), self.refused)] * self.rounds


def created_and_dropped(catalog: str) -> Observation:
    """Observe that rows of a system catalog were written and deleted."""
    return f"SELECT n_tup_ins > 0 AND n_tup_del > 0 FROM pg_stat_sys_tables WHERE relname = '{catalog}'", True


def changed_twice(catalog: str) -> Observation:
    """Observe that rows of a system catalog were updated at least twice."""
    return f"SELECT n_tup_upd >= 2 FROM pg_stat_sys_tables WHERE relname = '{catalog}'", True


def rewritten(relation: str) -> Observation:
    """Observe that a relation, which the template never rewrote, has another file."""
    return f"SELECT pg_relation_filenode('{relation}') <> '{relation}'::regclass::oid", True


def newer_than_the_template(oid: str) -> Observation:
    """Observe that an object was created after the template's last table."""
    return f"SELECT {oid}::oid > 'plain'::regclass::oid", True


def larger_than(size: int, relation: str) -> Observation:
    """Observe that a relation's file has grown."""
    return f"SELECT pg_relation_size('{relation}') > {size}", True


def statistic(value: str, table: str, column: str, result: object) -> Observation:
    """Observe a value of the planner's statistics of a column."""
    condition = f"schemaname = current_schema() AND tablename = '{table}' AND attname = '{column}'"
    return f"SELECT {value} FROM pg_stats WHERE {condition}", result


def sessions(condition: str, result: int = 1) -> Observation:
    """Observe sessions in this database besides one's own."""
    others = "datname = current_database() AND pid <> pg_backend_pid()"
    return f"SELECT count(*) FROM pg_stat_activity WHERE {others} AND {condition}", result


def unique_name() -> str:
    """Return a name with the marker that no other test of the cluster uses."""
    return f"{MARKER} {secrets.token_hex(4)}"


def _work(does: str | tuple[str, ...] | Work, ending: Ending) -> Work:
    if callable(does):
        return does
    statements = (does,) if isinstance(does, str) else does

    def work(holder: Holder) -> None:
        connection = holder.connect(application_name=MARKER)
        if ending not in {Ending.COMMIT, Ending.KEPT}:
            connection.execute("BEGIN")
        for statement in statements:
            connection.execute(statement)
        if ending is Ending.ROLLBACK:
            connection.execute("ROLLBACK")
        elif ending in {Ending.ABANDONED, Ending.KEPT}:
            holder.keep(connection)
        elif ending is Ending.KILLED:
            holder.kill(connection)

    return work


def _complete(work: Work, refused: type[psycopg.Error] | None) -> Work:
    """Expect the refusal, and close the connections that the work does not keep."""

    def complete(holder: Holder) -> None:
        try:
            if refused is None:
                work(holder)
            else:
                with pytest.raises(refused):
                    work(holder)
        finally:
            holder.end_action()

    return complete
