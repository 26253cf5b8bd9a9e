"""Insertion of test data: the order in which referenced rows come first, and the insertion of one row."""

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
    """Derive a UUID (version 5) from a test's name and other parts: the same in every run, and unique to them."""
    return uuid5(_NAMESPACE, "\x1f".join([test, *parts]))


@dataclass(frozen=True, slots=True)
class NamedRow:
    """A row in the database that other rows can refer to by its name."""

    table: str
    row: Row
    key: tuple[str, ...]


@dataclass(slots=True, eq=False)
class PlannedRow:
    """A row to be inserted: its values by column, and its references to other rows."""

    given: GivenRow
    values: dict[str, Any]
    references: dict[str, tuple[str, str]] = field(default_factory=dict)
    """By column: the name of another row, and its column."""
    deferred: dict[str, tuple[str, str]] = field(default_factory=dict)
    """The references that are set by an UPDATE after all rows are inserted."""


def plan_rows(
    tables: TableMap, given: Sequence[GivenRow], known: Mapping[str, NamedRow], test: str
) -> list[PlannedRow]:
    """Return all rows in an order in which referenced rows come first.

    Args:
        tables: tables of the database.
        given: rows to insert.
        known: rows that are in the database already, by name.
        test: name of the test, from which UUIDs are derived.

    Raises:
        DataInvalid: a row is invalid. The message names its place.
        CircularTables: rows refer to each other in a cycle, by columns that are NOT NULL.
    """
    targets = {name: one.table for name, one in known.items()}
    for row in given:
        if row.name in targets:
            raise DataInvalid(f"{row.location}: another row has the name {row.name}: names must be unique")
        if row.name is not None:
            targets[row.name] = row.table
    position = {name: at for at, name in enumerate(tables.insert_order)}
    rows = [
        _plan_row(tables, one, targets, uuid_of(test, one.table, one.name or str(number)))
        for number, one in enumerate(given)
    ]
    todo = sorted(rows, key=lambda one: position[one.given.table])
    done, ordered = set(known), list[PlannedRow]()
    while todo:
        ready = next((one for one in todo if {name for name, _ in one.references.values()} <= done), None)
        if ready is None:
            _defer_references(tables, todo, done)
            continue
        todo.remove(ready)
        ordered.append(ready)
        if ready.given.name is not None:
            done.add(ready.given.name)
    return ordered


def _plan_row(tables: TableMap, given: GivenRow, targets: Mapping[str, str], identity: UUID) -> PlannedRow:
    table = tables.tables[given.table]
    if not table.primary_key.columns:
        raise DataInvalid(
            f"{given.location}: {given.table} has no primary key, so its rows could not be deleted again"
        )
    row = PlannedRow(given, {})
    for key, value in given.values.items():
        text = value if isinstance(value, str) else ""
        if text.startswith("@@") or not text.startswith("@"):
            check_columns(table, [key], given.location)
            row.values[key] = text[1:] if text.startswith("@@") else value
            continue
        name, _, column = text[1:].partition(".")
        if name not in targets:
            known = ", ".join(sorted(targets)) or "none"
            raise DataInvalid(f"{given.location}, {key}: no row has the name {name}; there are {known}")
        for own, of in _resolve_reference(tables, given, key, targets[name], column):
            row.references[own] = (name, of)
    for own_key in table.primary_key:
        if isinstance(own_key.type, Uuid) and own_key.key not in {*row.values, *row.references}:
            row.values[own_key.key] = identity
    return row


def _resolve_reference(
    tables: TableMap, given: GivenRow, key: str, target: str, column: str
) -> Iterator[tuple[str, str]]:
    """Yield the columns that a reference sets, each with the column of the other row that has the value."""
    of, to = tables.tables[given.table], tables.tables[target]
    keys = [one for one in tables.references if (one.of, one.to) == (given.table, target)]
    if key in of.c:
        single = {one.columns[0]: one.referred[0] for one in keys if len(one.columns) == 1}
        primary = [one.key for one in to.primary_key]
        from_ = column or single.get(key) or (primary[0] if len(primary) == 1 else "")
        if from_ not in to.c:
            raise DataInvalid(f"{given.location}, {key}: name a column of {target}, as @name.column")
        yield key, from_
        return
    meant = [one for one in keys if f"{key}_id" in one.columns] or [one for one in keys if key == to.name]
    if len(meant) != 1 or column:
        raise DataInvalid(
            f"{given.location}: {given.table} has no column {key}, and no single foreign key to {target} for this name; "
            f"there are {', '.join(of.c.keys())}"
        )
    yield from zip(meant[0].columns, meant[0].referred, strict=True)


def _defer_references(tables: TableMap, todo: Sequence[PlannedRow], done: Collection[str]) -> None:
    """Defer the references of one row in a cycle, so that it can be inserted before the rows that it refers to."""
    for one in todo:
        table = tables.tables[one.given.table]
        deferred = {
            key: to for key, to in one.references.items() if to[0] not in done and table.c[key].nullable
        }
        if deferred:
            one.deferred |= deferred
            one.references = {key: to for key, to in one.references.items() if key not in deferred}
            one.values |= dict.fromkeys(deferred)
            return
    locations = "; ".join(one.given.location for one in todo)
    raise CircularTables(f"rows refer to each other in a cycle, by NOT NULL columns: {locations}")


def insert_row(connection: Connection, table: Table, given: GivenRow, values: Mapping[str, Any]) -> Row:
    """Insert a row, and return it with all columns.

    Raises:
        DataInvalid: the database rejects it.
    """
    converted = {name: _cast_text(connection, table.c[name], value) for name, value in values.items()}
    statement = insert(table).returning(*table.c)
    try:
        return dict(
            connection.execute(statement.values(converted) if converted else statement).mappings().one()
        )
    except (DBAPIError, StatementError) as error:
        raise DataInvalid(f"{given.location}: {error.orig or error}") from error


def _cast_text(connection: Connection, column: Column[Any], value: object) -> object:
    """Convert text to the column's type: PostgreSQL casts it, and for SQLite it is parsed here."""
    if not isinstance(value, str) or isinstance(column.type, String | NullType):
        return value
    if connection.dialect.name == "postgresql":
        return cast(literal(value, String), column.type)
    read = getattr(column.type.python_type, "fromisoformat", None)
    return value if read is None else read(value)


def check_columns(table: Table, columns: Collection[str], location: str) -> None:
    """Check that a table has these columns.

    Raises:
        DataInvalid: a column does not exist. The message lists the existing ones.
    """
    for column in columns:
        if column not in table.c:
            raise DataInvalid(
                f"{location}: {table.name} has no column {column}; there are {', '.join(table.c.keys())}"
            )
