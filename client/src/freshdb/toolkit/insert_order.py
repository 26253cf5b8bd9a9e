"""Rows of test data, in an order in which each finds those that it refers to; and how one is inserted."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID, uuid5

from sqlalchemy import Column, Connection, String, Table, Uuid, cast, insert, literal
from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.types import NullType

from freshdb.toolkit.errors import CircularTables, DataInvalid
from freshdb.toolkit.loaders import GivenRow
from freshdb.toolkit.row_diff import Row
from freshdb.toolkit.tables import TableMap

_NAMESPACE: Final = UUID("6f0c1c57-6f3a-4c0e-9d39-8f7a2d6f1b5e")


def uuid_of(test: str, *parts: str) -> UUID:
    """Derive a UUID (version 5) from a test's name and what it is for: the same in every run, and nobody else's."""
    return uuid5(_NAMESPACE, "\x1f".join([test, *parts]))


@dataclass(frozen=True, slots=True)
class NamedRow:
    """A row that others can refer to."""

    table: str
    row: Row
    key: tuple[str, ...]


@dataclass(slots=True, eq=False)
class PlannedRow:
    """A row to be inserted: its values by column, and what it waits for."""

    given: GivenRow
    values: dict[str, Any]
    references: dict[str, tuple[str, str]] = field(default_factory=dict)
    """By column: the name of another row, and its column."""
    late: dict[str, tuple[str, str]] = field(default_factory=dict)


def placed(
    tables: TableMap, given: Sequence[GivenRow], known: Mapping[str, NamedRow], test: str
) -> list[PlannedRow]:
    """Give every row, in an order in which each finds those that it refers to.

    Args:
        tables: of the database.
        given: what to insert.
        known: rows that are there already.
        test: what UUIDs are derived from.

    Raises:
        DataInvalid: a row cannot be understood; names the place.
        CircularTables: they refer to each other in a circle, by columns that may not be null.
    """
    targets = {name: one.table for name, one in known.items()}
    for row in given:
        if row.name in targets:
            raise DataInvalid(f"{row.place}: another row is called {row.name}: give each a name of its own")
        if row.name is not None:
            targets[row.name] = row.table
    place = {name: at for at, name in enumerate(tables.insert_order)}
    rows = [
        _planned(tables, one, targets, uuid_of(test, one.table, one.name or str(number)))
        for number, one in enumerate(given)
    ]
    waiting = sorted(rows, key=lambda one: place[one.given.table])
    done, ordered = set(known), list[PlannedRow]()
    while waiting:
        ready = next((one for one in waiting if {name for name, _ in one.references.values()} <= done), None)
        if ready is None:
            _loosen(tables, waiting, done)
            continue
        waiting.remove(ready)
        ordered.append(ready)
        if ready.given.name is not None:
            done.add(ready.given.name)
    return ordered


def _planned(tables: TableMap, given: GivenRow, targets: Mapping[str, str], identity: UUID) -> PlannedRow:
    table = tables.tables[given.table]
    if not table.primary_key.columns:
        raise DataInvalid(
            f"{given.place}: {given.table} has no primary key by which its rows could be taken away again"
        )
    row = PlannedRow(given, {})
    for key, value in given.values.items():
        text = value if isinstance(value, str) else ""
        if text.startswith("@@") or not text.startswith("@"):
            see_columns(table, [key], given.place)
            row.values[key] = text[1:] if text.startswith("@@") else value
            continue
        name, _, column = text[1:].partition(".")
        if name not in targets:
            known = ", ".join(sorted(targets)) or "none"
            raise DataInvalid(f"{given.place}, {key}: no row is called {name}; there are {known}")
        for own, of in _referring(tables, given, key, targets[name], column):
            row.references[own] = (name, of)
    for own_key in table.primary_key:
        if isinstance(own_key.type, Uuid) and own_key.key not in {*row.values, *row.references}:
            row.values[own_key.key] = identity
    return row


def _referring(
    tables: TableMap, given: GivenRow, key: str, target: str, column: str
) -> Iterator[tuple[str, str]]:
    """Columns that a reference fills, each with the column of the other row that its value is from."""
    of, to = tables.tables[given.table], tables.tables[target]
    keys = [one for one in tables.references if (one.of, one.to) == (given.table, target)]
    if key in of.c:
        single = {one.columns[0]: one.referred[0] for one in keys if len(one.columns) == 1}
        primary = [one.key for one in to.primary_key]
        from_ = column or single.get(key) or (primary[0] if len(primary) == 1 else "")
        if from_ not in to.c:
            raise DataInvalid(f"{given.place}, {key}: say which column of {target} you mean, as @name.column")
        yield key, from_
        return
    meant = [one for one in keys if f"{key}_id" in one.columns] or [one for one in keys if key == to.name]
    if len(meant) != 1 or column:
        raise DataInvalid(
            f"{given.place}: {given.table} has no column {key}, nor one foreign key to {target} that this could mean; "
            f"there are {', '.join(of.c.keys())}"
        )
    yield from zip(meant[0].columns, meant[0].referred, strict=True)


def _loosen(tables: TableMap, waiting: Sequence[PlannedRow], done: Collection[str]) -> None:
    """Have one row of a circle be inserted before one that it refers to."""
    for one in waiting:
        table = tables.tables[one.given.table]
        late = {key: to for key, to in one.references.items() if to[0] not in done and table.c[key].nullable}
        if late:
            one.late |= late
            one.references = {key: to for key, to in one.references.items() if key not in late}
            one.values |= dict.fromkeys(late)
            return
    places = "; ".join(one.given.place for one in waiting)
    raise CircularTables(f"these rows refer to each other, by columns that may not be null: {places}")


def inserted(connection: Connection, table: Table, given: GivenRow, values: Mapping[str, Any]) -> Row:
    """Insert a row, and give it as the database has it.

    Raises:
        DataInvalid: the database refuses it.
    """
    fitting = {name: _fit(connection, table.c[name], value) for name, value in values.items()}
    statement = insert(table).returning(*table.c)
    try:
        return dict(connection.execute(statement.values(fitting) if fitting else statement).mappings().one())
    except (DBAPIError, StatementError) as error:
        raise DataInvalid(f"{given.place}: {error.orig or error}") from error


def _fit(connection: Connection, column: Column[Any], value: object) -> object:
    """Text is read by PostgreSQL as the column's type is; SQLite has no types that could do so."""
    if not isinstance(value, str) or isinstance(column.type, String | NullType):
        return value
    if connection.dialect.name == "postgresql":
        return cast(literal(value, String), column.type)
    read = getattr(column.type.python_type, "fromisoformat", None)
    return value if read is None else read(value)


def see_columns(table: Table, columns: Collection[str], place: str) -> None:
    """See that a table has these columns.

    Raises:
        DataInvalid: it has not; says which there are.
    """
    for column in columns:
        if column not in table.c:
            raise DataInvalid(
                f"{place}: {table.name} has no column {column}; there are {', '.join(table.c.keys())}"
            )
