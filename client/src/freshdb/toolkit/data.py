"""Test data: insert it, delete it again, and compare it.

::

    data = Data(engine, test="test_order")
    rows = data.set_up({
        "customer": {"alice": {"name": "Alice"}},
        "order": [{"customer": "@alice", "total": 3}],
    })
    data.check_counts({"order": 1})
    with data.only_changes({"order": {"added": [{"customer_id": rows["alice"]["id"]}]}}):
        ...
    data.tear_down()

Rows are inserted so that referenced rows come first, in whatever order they are written. In a cycle, a nullable reference is
set afterwards. A UUID key without a value is derived from the name of the test, the table and the row. So it is the same
in every run, and different in every test.

Inside a transaction of the caller, each call is part of that transaction. Otherwise each call has its own. A call makes
all its changes or none.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import sqlparse
from sqlalchemy import ColumnElement, Connection, Table, and_, delete, func, literal, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from freshdb.toolkit.engines import AsyncTarget, Awaiting, Blocking, Target, async_engine_of, engine_of
from freshdb.toolkit.errors import DataDiffers, DataInvalid, WouldCascade
from freshdb.toolkit.insert_order import NamedRow, check_columns, insert_row, plan_rows, uuid_of
from freshdb.toolkit.loaders import Source, load_rows
from freshdb.toolkit.row_diff import (
    Row,
    Rows,
    Snapshot,
    TableChanges,
    changes_between,
    compare_rows,
    describe,
)
from freshdb.toolkit.tables import TableMap

__all__ = ["AsyncData", "Data", "ExpectedChanges", "uuid_of"]

ExpectedChanges: TypeAlias = Mapping[str, Mapping[str, Rows]]
"""By table: the expected ``added``, ``removed`` and ``changed`` rows, each with the columns to compare."""


@dataclass(frozen=True, slots=True)
class _Inserted:
    """A row that was inserted: its table, its primary key, and the references that were set afterwards."""

    table: str
    key: Mapping[str, Any]
    deferred: tuple[str, ...] = ()


class _Operations:
    """The operations of `Data` and `AsyncData`, on a connection with a transaction."""

    def __init__(self, test: str, tables: TableMap | None) -> None:
        self._test = test
        self._tables = tables
        self._inserted: list[_Inserted] = []
        self._named: dict[str, NamedRow] = {}

    def set_up(self, connection: Connection, source: Source) -> Mapping[str, Mapping[str, Any]]:
        """Insert rows, which may refer to rows of earlier calls.

        Args:
            connection: connection to the database.
            source: ``{table: [row, …]}`` or ``{table: {name: row, …}}``, or the path of a YAML, JSON or CSV file with it, or
                of an SQL file that only inserts rows.

        Returns:
            the rows by their names, with all columns.

        Raises:
            DataInvalid: the data cannot be inserted. The message names the place and the remedy.
            UnknownTable: a table does not exist.
            NotATable: a table is a view or a partition.
            CircularTables: rows refer to each other in a cycle, by columns that are NOT NULL.
        """
        tables = self._table_map(connection)
        if isinstance(source, Path) and source.suffix == ".sql":
            self._inserted = [*self._inserted, *self._run_sql(connection, tables, source)]
            return {}
        given = load_rows(source)
        tables.check(row.table for row in given)
        planned = plan_rows(tables, given, self._named, self._test)
        inserted, named = list[_Inserted](), dict(self._named)
        for one in planned:
            table = tables.tables[one.given.table]
            found = {column: named[name].row[of] for column, (name, of) in one.references.items()}
            row = insert_row(connection, table, one.given, one.values | found)
            key = tuple(column.key for column in table.primary_key)
            inserted.append(
                _Inserted(one.given.table, {column: row[column] for column in key}, tuple(one.deferred))
            )
            if one.given.name is not None:
                named[one.given.name] = NamedRow(one.given.table, row, key)
        for one, done in zip(planned, inserted, strict=True):
            if one.deferred:
                table = tables.tables[done.table]
                found = {column: named[name].row[of] for column, (name, of) in one.deferred.items()}
                connection.execute(update(table).where(_has_key(table, done.key)).values(found))
                if one.given.name is not None:
                    before = named[one.given.name]
                    named[one.given.name] = replace(before, row={**before.row, **found})
        new = {name: one.row for name, one in named.items() if name not in self._named}
        self._inserted, self._named = [*self._inserted, *inserted], named
        return new

    def tear_down(self, connection: Connection) -> None:
        """Delete exactly the rows that `set_up` inserted, unless they are deleted already.

        Raises:
            WouldCascade: other rows refer to them.
        """
        tables = self._table_map(connection).tables
        try:
            for row in self._inserted:
                if row.deferred:
                    nulls = dict.fromkeys(row.deferred)
                    connection.execute(
                        update(tables[row.table]).where(_has_key(tables[row.table], row.key)).values(nulls)
                    )
            for row in reversed(self._inserted):
                connection.execute(delete(tables[row.table]).where(_has_key(tables[row.table], row.key)))
        except IntegrityError as error:
            raise WouldCascade(
                f"rows that were added later refer to the test data: delete those first: {error.orig}", ()
            ) from error
        self._inserted, self._named = [], {}

    def check_counts(self, connection: Connection, expected: Mapping[str, int]) -> None:
        """Compare the numbers of rows in tables with expected numbers.

        Raises:
            DataDiffers: a number differs. The message shows both numbers.
            UnknownTable: a table does not exist.
        """
        tables = self._table_map(connection)
        tables.check(expected)
        found = {
            name: connection.scalar(select(func.count()).select_from(tables.tables[name]))
            for name in expected
        }
        wrong = [
            f"{name} has {found[name]} rows instead of {number}"
            for name, number in expected.items()
            if found[name] != number
        ]
        if wrong:
            raise DataDiffers("; ".join(wrong))

    def check_rows(self, connection: Connection, table: str, expected: Sequence[Mapping[str, Any]]) -> None:
        """Compare the rows of a table, in any order, with expected rows, in the columns of the expected rows.

        Raises:
            DataDiffers: rows differ. The message shows missing rows (-) and unexpected rows (+).
            DataInvalid: the table does not have one of the columns.
            UnknownTable: the table does not exist.
        """
        [(found, _)] = self._read(connection, [table]).values()
        columns = list(dict.fromkeys(column for row in expected for column in row))
        check_columns(self._table_map(connection).tables[table], columns, f"the expected rows of {table}")
        missing, unexpected = compare_rows(self._resolve_rows(expected), found)
        unexpected = [{name: row[name] for name in columns or row} for row in unexpected]
        if missing or unexpected:
            raise DataDiffers(describe(table, missing, unexpected))

    def snapshot(self, connection: Connection, *tables: str) -> Snapshot:
        """Read these tables, or all tables, for a later comparison.

        Raises:
            UnknownTable: a table does not exist.
        """
        return self._read(connection, tables)

    def changes(self, connection: Connection, since: Snapshot) -> Mapping[str, TableChanges]:
        """Return the changes since a snapshot, for each of its tables that has changed."""
        return changes_between(since, self._read(connection, list(since)))

    def check_changes(self, connection: Connection, since: Snapshot, expected: ExpectedChanges) -> None:
        """Compare the changes since a snapshot with expected changes.

        Args:
            connection: connection to the database.
            since: the snapshot.
            expected: by table: ``added``, ``removed`` and ``changed`` rows (as they are now), each with the columns to
                compare.

        Raises:
            DataDiffers: the changes are not exactly the expected ones.
            DataInvalid: a kind of change is not ``added``, ``removed`` or ``changed``, or the table is not in the snapshot.
        """
        found = self.changes(connection, since)
        wrong = list[str]()
        for name in sorted({*found, *expected}):
            wanted = expected.get(name, {})
            if unknown := wanted.keys() - {"added", "removed", "changed"}:
                raise DataInvalid(
                    f"changes of {name}: expected added, removed and changed, not {', '.join(sorted(unknown))}"
                )
            if name not in since:
                raise DataInvalid(f"changes of {name}: not in the snapshot of {', '.join(since)}")
            for kind, rows in found.get(name, TableChanges()).by_kind().items():
                missing, unexpected = compare_rows(self._resolve_rows(wanted.get(kind, ())), rows)
                if missing or unexpected:
                    wrong.append(describe(f"{name}, {kind}", missing, unexpected))
        if wrong:
            raise DataDiffers("\n".join(wrong))

    def check_references(self, connection: Connection) -> None:
        """Check all foreign keys, also those that the database has not enforced.

        Raises:
            DataDiffers: a referenced row does not exist. The message names the key and the number of rows.
        """
        tables = self._table_map(connection)
        wrong = list[str]()
        for one in tables.references:
            of, to = tables.tables[one.of], tables.tables[one.to].alias()
            matches = and_(
                *(
                    of.c[column] == to.c[other]
                    for column, other in zip(one.columns, one.referred, strict=True)
                )
            )
            given = and_(*(of.c[column].is_not(None) for column in one.columns))
            dangling = (
                select(func.count())
                .select_from(of)
                .where(given, ~select(literal(1)).select_from(to).where(matches).exists())
            )
            if number := connection.scalar(dangling):
                wrong.append(
                    f"{number} rows of {one.of} refer by {', '.join(one.columns)} to rows that do not exist in {one.to}"
                )
        if wrong:
            raise DataDiffers("; ".join(wrong))

    # Details

    def _table_map(self, connection: Connection) -> TableMap:
        if self._tables is None:
            self._tables = TableMap.of_connection(connection)
        return self._tables

    def _run_sql(self, connection: Connection, tables: TableMap, file: Path) -> list[_Inserted]:
        before = self._read(connection, ())
        for statement in sqlparse.split(file.read_text()):
            if sqlparse.format(statement, strip_comments=True).strip(" \n;"):
                connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
        changes = changes_between(before, self._read(connection, ()))
        inserted = list[_Inserted]()
        for name in tables.insert_order:
            one = changes.get(name, TableChanges())
            if one.removed or one.changed:
                raise DataInvalid(f"{file}: an SQL file may only add rows, and this changes rows of {name}")
            keys = [column.key for column in tables.tables[name].primary_key]
            if one.added and not keys:
                raise DataInvalid(
                    f"{file}: {name} has no primary key, so its rows could not be deleted again"
                )
            inserted += [_Inserted(name, {key: row[key] for key in keys}) for row in one.added]
        return inserted

    def _read(self, connection: Connection, names: Sequence[str]) -> Snapshot:
        tables = self._table_map(connection)
        tables.check(names)
        found: dict[str, tuple[Rows, tuple[str, ...]]] = {}
        for name in names or tables.insert_order:
            table = tables.tables[name]
            rows: Rows = [dict(row) for row in connection.execute(select(table)).mappings()]
            found[name] = (rows, tuple(column.key for column in table.primary_key))
        return found

    def _resolve_rows(self, rows: Sequence[Mapping[str, Any]]) -> Rows:
        """Return the rows with the values of their references."""
        return [{column: self._resolve_value(column, value) for column, value in row.items()} for row in rows]

    def _resolve_value(self, column: str, value: object) -> object:
        if not isinstance(value, str) or not value.startswith("@"):
            return value
        name, _, of = value[1:].partition(".")
        if value.startswith("@@"):
            return value[1:]
        if name not in self._named:
            raise DataInvalid(
                f"{column}: no row has the name {name}; there are {', '.join(sorted(self._named)) or 'none'}"
            )
        named = self._named[name]
        if not of and len(named.key) != 1:
            raise DataInvalid(
                f"{column}: the primary key of {name} is not a single column: name the column, as @{name}.column"
            )
        return named.row[of or named.key[0]]


class Data:
    """Test data in a database, with blocking calls.

    Args:
        target: an ``Engine``, a ``Connection`` or a DSN.
        test: name of the test, from which UUIDs are derived.
        tables: tables of the database. By default they are read at the first use.

    Raises:
        WrongTarget: the target is of another type.
    """

    def __init__(self, target: Target, *, test: str = "", tables: TableMap | None = None) -> None:
        self.target: Target = target if isinstance(target, Connection) else engine_of(target)
        self.operations = _Operations(test, tables)

    set_up = Blocking(_Operations.set_up)
    tear_down = Blocking(_Operations.tear_down)
    check_counts = Blocking(_Operations.check_counts)
    check_rows = Blocking(_Operations.check_rows)
    check_references = Blocking(_Operations.check_references)
    snapshot = Blocking(_Operations.snapshot)
    changes = Blocking(_Operations.changes)
    check_changes = Blocking(_Operations.check_changes)

    @contextmanager
    def only_changes(self, expected: ExpectedChanges, *tables: str) -> Iterator[None]:
        """Check that the block changes exactly these rows in these tables, or in all tables. See ``check_changes``."""
        before = self.snapshot(*tables)
        yield
        self.check_changes(before, expected)


class AsyncData:
    """Test data in a database, with async calls.

    Args:
        target: an ``AsyncEngine``, an ``AsyncConnection`` or a DSN.
        test: name of the test, from which UUIDs are derived.
        tables: tables of the database. By default they are read at the first use.

    Raises:
        WrongTarget: the target is of another type.
    """

    def __init__(self, target: AsyncTarget, *, test: str = "", tables: TableMap | None = None) -> None:
        self.target: AsyncTarget = target if isinstance(target, AsyncConnection) else async_engine_of(target)
        self.operations = _Operations(test, tables)

    set_up = Awaiting(_Operations.set_up)
    tear_down = Awaiting(_Operations.tear_down)
    check_counts = Awaiting(_Operations.check_counts)
    check_rows = Awaiting(_Operations.check_rows)
    check_references = Awaiting(_Operations.check_references)
    snapshot = Awaiting(_Operations.snapshot)
    changes = Awaiting(_Operations.changes)
    check_changes = Awaiting(_Operations.check_changes)

    @asynccontextmanager
    async def only_changes(self, expected: ExpectedChanges, *tables: str) -> AsyncIterator[None]:
        """Check that the block changes exactly these rows in these tables, or in all tables. See ``check_changes``."""
        before = await self.snapshot(*tables)
        yield
        await self.check_changes(before, expected)


def _has_key(table: Table, key: Row) -> ColumnElement[bool]:
    return and_(*(table.c[name] == value for name, value in key.items()))
