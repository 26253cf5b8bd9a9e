"""A connection of the lease's login, as probes use it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

import psycopg

from tests.twins.probes.values import Json, Names

APPLICATION_NAME: Final = "freshdb twins"
"""The application name of all connections of an observation. Probes of sessions and locks leave these out."""
_SCOPE: Final = re.compile(r"\{scope ([\w.]+)\}")


@dataclass(frozen=True, slots=True)
class Session:
    """An open connection and the names of the lease.

    In SQL, ``{schema}``, ``{role}`` and ``{database}`` are literals of these names, ``{role_oid}`` is the role's oid, and
    ``{role_word}`` a regular expression for its name and that of its database or schema. ``{own_database}`` is true with
    isolation ``database``. ``{scope COLUMN}`` is the condition that a column names a schema of the lease: its own one, or
    with a database of its own every schema that is not the system's.
    """

    connection: psycopg.Connection[tuple[Any, ...]]
    isolation: Literal["database", "schema"]
    major: int
    role: str
    database: str
    schema: str

    @classmethod
    def of(
        cls,
        connection: psycopg.Connection[tuple[Any, ...]],
        isolation: Literal["database", "schema"],
        schema: str,
    ) -> Session:
        """Use a connection. ``schema`` is the schema of the template's tables."""
        info = connection.info
        return cls(connection, isolation, info.server_version // 10000, info.user, info.dbname, schema)

    @property
    def names(self) -> Names:
        """The names to hide. A reused database has the name of its first login, and a fresh one that of its only login."""
        own = self.database if self.isolation == "database" else self.schema
        shared = {} if self.isolation == "database" else {self.database: "<database>"}
        return Names({self.role: "<lease>", own: "<lease>"} | shared)

    def sql(self, text: str) -> str:
        """Return SQL with the names filled in."""
        for name, value in (("schema", self.schema), ("role", self.role), ("database", self.database)):
            text = text.replace(f"{{{name}}}", _literal(value))
        text = text.replace("{role_oid}", f"(SELECT oid FROM pg_roles WHERE rolname = {_literal(self.role)})")
        own = self.database if self.isolation == "database" else self.schema
        word = f"(^|[^A-Za-z0-9])({re.escape(self.role)}|{re.escape(own)})($|[^A-Za-z0-9])"
        text = text.replace("{role_word}", _literal(word))
        text = text.replace("{own_database}", str(self.isolation == "database"))
        return _SCOPE.sub(lambda found: self._scope(found.group(1)), text)

    def rows(self, text: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query as the driver gives them."""
        return self.connection.execute(self.sql(text)).fetchall()

    def table(self, text: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Return the columns' names and the rows of a query."""
        cursor = self.connection.execute(self.sql(text))
        return [column.name for column in cursor.description or ()], cursor.fetchall()

    def lines(self, text: str) -> list[Json]:
        """Return the first column of a query."""
        names = self.names
        return [names.plain(row[0]) for row in self.rows(text)]

    def outcome(self, work: Callable[[], object]) -> Json:
        """Return the result of some work in a savepoint, or the fields of its error."""
        names = self.names
        try:
            with self.connection.transaction():
                return names.plain(work())
        except psycopg.Error as error:
            diag = error.diag
            return {
                "error": error.sqlstate,
                "message": names.plain(diag.message_primary),
                "detail": names.plain(diag.message_detail),
                "hint": names.plain(diag.message_hint),
                "context": names.plain(diag.context),
                "object": names.plain(
                    [diag.schema_name, diag.table_name, diag.column_name, diag.constraint_name]
                ),
            }

    def execute(self, text: str) -> str:
        """Run a statement and return its command tag, such as ``UPDATE 3``."""
        return self.connection.execute(self.sql(text)).statusmessage or ""

    def _scope(self, column: str) -> str:
        if self.isolation == "schema":
            return f"({column} = {_literal(self.schema)})"
        return (
            f"({column} NOT IN ('pg_catalog', 'information_schema', 'pg_toast')"
            f" AND {column} !~ '^pg_(toast_)?temp_')"
        )


@dataclass(frozen=True, slots=True)
class Query:
    """A query and the form of its result.

    Args:
        sql: the query, see ``Session``.
        key: the number of leading columns that name a row. With 0, the rows are a list in the order in which they came.
        bag: the rows have no name and no order. The result counts equal ones.
        only: the columns that count, if the version has them. By default all.
        without: columns that do not count.
        presence: columns of which only counts if they are null, such as instants.
    """

    sql: str
    key: int = 0
    bag: bool = False
    only: frozenset[str] = frozenset()
    without: frozenset[str] = frozenset()
    presence: frozenset[str] = frozenset()

    def __call__(self, session: Session) -> Json:
        """Run the query."""
        columns, rows = session.table(self.sql)
        names = session.names
        records = [self._record(names, columns[self.key :], row[self.key :]) for row in rows]
        if self.bag:
            return _counted(str(_joined(record)) for record in records)
        if not self.key:
            return [*records]
        keyed: dict[str, Json] = {}
        for row, record in zip(rows, records, strict=True):
            name = ".".join(str(names.plain(part)) for part in row[: self.key])
            while name in keyed:
                name += "+"
            keyed[name] = record
        return keyed

    def _record(self, names: Names, columns: list[str], row: tuple[Any, ...]) -> dict[str, Json]:
        return {
            column: (value is not None) if column in self.presence else names.plain(value)
            for column, value in zip(columns, row, strict=True)
            if column not in self.without and (not self.only or column in self.only)
        }


def _counted(texts: Iterable[str]) -> dict[str, Json]:
    return dict(sorted(Counter(texts).items()))


def _joined(record: dict[str, Json]) -> str:
    return ", ".join(f"{column}={value}" for column, value in record.items())


def _literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
