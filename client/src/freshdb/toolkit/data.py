"""Test data: set up, taken away again, and looked at.

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

Rows go in so that what is referred to comes first, whatever order they are written in; in a circle, a reference that may be
null is set afterwards. A key of type UUID that nobody has given is derived from the test's name, the table and the row: the
same in every run, and another in every test.

Inside a transaction of the caller's, all of it is part of that; otherwise each call has one of its own. A call does all that
it should, or nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import sqlparse
from sqlalchemy import (
    ColumnElement,
    Connection,
    Table,
    and_,
    delete,
    func,
    literal,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from freshdb.toolkit.engines import AsyncTarget, Awaiting, Blocking, Target, async_engine_of, engine_of
from freshdb.toolkit.errors import DataDiffers, DataInvalid, WouldCascade
from freshdb.toolkit.insert_order import NamedRow, inserted, placed, see_columns, uuid_of
from freshdb.toolkit.loaders import Source, rows_of
from freshdb.toolkit.row_diff import Row, Rows, Snapshot, TableChanges, changes_between, told, unlike
from freshdb.toolkit.tables import TableMap

__all__ = ["AsyncData", "Data", "ExpectedChanges", "uuid_of"]

ExpectedChanges: TypeAlias = Mapping[str, Mapping[str, Rows]]
"""By table: rows that were ``added``, ``removed`` and ``changed``, each with the columns that matter."""


@dataclass(frozen=True, slots=True)
class _Made:
    """A row that was set up: where, by which key it is found, and its references that were set afterwards."""

    table: str
    key: Mapping[str, Any]
    late: tuple[str, ...] = ()


class _Operations:
    """What can be done, on a connection that has a transaction."""

    def __init__(self, test: str, tables: TableMap | None) -> None:
        self._test = test
        self._tables = tables
        self._made: list[_Made] = []
        self._named: dict[str, NamedRow] = {}

    def set_up(self, connection: Connection, source: Source) -> Mapping[str, Mapping[str, Any]]:
        """Insert rows; what was set up before can be referred to.

        Args:
            connection: where.
            source: ``{table: [row, …]}`` or ``{table: {name: row, …}}``, or the path of a YAML, JSON or CSV file of it, or
                of SQL that inserts rows and does nothing else to them.

        Returns:
            rows by their names, as they are in the database.

        Raises:
            DataInvalid: it cannot be set up; names the place, and what would do.
            UnknownTable: there is no such table.
            NotATable: it is a view, or a partition.
            CircularTables: rows refer to each other in a circle, by columns that may not be null.
        """
        tables = self._map(connection)
        if isinstance(source, Path) and source.suffix == ".sql":
            self._made = [*self._made, *self._run_sql(connection, tables, source)]
            return {}
        given = rows_of(source)
        tables.check(row.table for row in given)
        planned = placed(tables, given, self._named, self._test)
        made, named = list[_Made](), dict(self._named)
        for one in planned:
            table = tables.tables[one.given.table]
            found = {column: named[name].row[of] for column, (name, of) in one.references.items()}
            row = inserted(connection, table, one.given, one.values | found)
            key = tuple(column.key for column in table.primary_key)
            made.append(_Made(one.given.table, {column: row[column] for column in key}, tuple(one.late)))
            if one.given.name is not None:
                named[one.given.name] = NamedRow(one.given.table, row, key)
        for one, done in zip(planned, made, strict=True):
            if one.late:
                table = tables.tables[done.table]
                found = {column: named[name].row[of] for column, (name, of) in one.late.items()}
                connection.execute(update(table).where(_is(table, done.key)).values(found))
                if one.given.name is not None:
                    before = named[one.given.name]
                    named[one.given.name] = replace(before, row={**before.row, **found})
        new = {name: one.row for name, one in named.items() if name not in self._named}
        self._made, self._named = [*self._made, *made], named
        return new

    def tear_down(self, connection: Connection) -> None:
        """Delete exactly the rows that were set up, as far as they are still there.

        Raises:
            WouldCascade: others refer to them by now.
        """
        tables = self._map(connection).tables
        try:
            for row in self._made:
                if row.late:
                    nothing = dict.fromkeys(row.late)
                    connection.execute(
                        update(tables[row.table]).where(_is(tables[row.table], row.key)).values(nothing)
                    )
            for row in reversed(self._made):
                connection.execute(delete(tables[row.table]).where(_is(tables[row.table], row.key)))
        except IntegrityError as error:
            raise WouldCascade(
                f"rows that were added since refer to what was set up: {error.orig}", ()
            ) from error
        self._made, self._named = [], {}

    def check_counts(self, connection: Connection, expected: Mapping[str, int]) -> None:
        """Compare how many rows tables have.

        Raises:
            DataDiffers: another number; says which.
            UnknownTable: there is no such table.
        """
        tables = self._map(connection)
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
        """Compare a table's rows, in any order, with expected ones, in the columns that these name.

        Raises:
            DataDiffers: they differ; shows what is missing (-) and what should not be there (+).
            DataInvalid: the table has no such column.
            UnknownTable: there is no such table.
        """
        [(found, _)] = self._read(connection, [table]).values()
        columns = list(dict.fromkeys(column for row in expected for column in row))
        see_columns(self._map(connection).tables[table], columns, f"the rows expected of {table}")
        missing, more = unlike(self._resolved(expected), found)
        more = [{name: row[name] for name in columns or row} for row in more]
        if missing or more:
            raise DataDiffers(told(table, missing, more))

    def snapshot(self, connection: Connection, *tables: str) -> Snapshot:
        """Read these tables, or all, to see later what has changed.

        Raises:
            UnknownTable: there is no such table.
        """
        return self._read(connection, tables)

    def changes(self, connection: Connection, since: Snapshot) -> Mapping[str, TableChanges]:
        """Tell what has changed in the tables of a snapshot; tables in which nothing has are left out."""
        return changes_between(since, self._read(connection, list(since)))

    def check_changes(self, connection: Connection, since: Snapshot, expected: ExpectedChanges) -> None:
        """See that nothing else has changed than what is expected.

        Args:
            connection: where.
            since: from when on.
            expected: by table: ``added``, ``removed`` and ``changed`` rows (as they are now), each with the columns that
                matter.

        Raises:
            DataDiffers: something else has changed, or something has not.
            DataInvalid: expected is something else than added, removed and changed.
        """
        found = self.changes(connection, since)
        wrong = list[str]()
        for name in sorted({*found, *expected}):
            wanted = expected.get(name, {})
            if strange := wanted.keys() - {"added", "removed", "changed"}:
                raise DataInvalid(
                    f"changes of {name}: wanted added, removed and changed, not {', '.join(sorted(strange))}"
                )
            if name not in since:
                raise DataInvalid(f"changes of {name}: it is not in the snapshot of {', '.join(since)}")
            for kind, rows in found.get(name, TableChanges()).kinds().items():
                missing, more = unlike(self._resolved(wanted.get(kind, ())), rows)
                if missing or more:
                    wrong.append(told(f"{name}, {kind}", missing, more))
        if wrong:
            raise DataDiffers("\n".join(wrong))

    def check_references(self, connection: Connection) -> None:
        """See that every foreign key finds its row, also where nobody checked it.

        Raises:
            DataDiffers: some do not; says which key, and how many rows.
        """
        tables = self._map(connection)
        wrong = list[str]()
        for one in tables.references:
            of, to = tables.tables[one.of], tables.tables[one.to].alias()
            met = and_(
                *(
                    of.c[column] == to.c[other]
                    for column, other in zip(one.columns, one.referred, strict=True)
                )
            )
            given = and_(*(of.c[column].is_not(None) for column in one.columns))
            lost = (
                select(func.count())
                .select_from(of)
                .where(given, ~select(literal(1)).select_from(to).where(met).exists())
            )
            if number := connection.scalar(lost):
                wrong.append(
                    f"{number} rows of {one.of} refer by {', '.join(one.columns)} to rows that {one.to} does not have"
                )
        if wrong:
            raise DataDiffers("; ".join(wrong))

    # Details

    def _map(self, connection: Connection) -> TableMap:
        if self._tables is None:
            self._tables = TableMap.of_connection(connection)
        return self._tables

    def _run_sql(self, connection: Connection, tables: TableMap, file: Path) -> list[_Made]:
        before = self._read(connection, ())
        for statement in sqlparse.split(file.read_text()):
            if sqlparse.format(statement, strip_comments=True).strip(" \n;"):
                connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
        changes = changes_between(before, self._read(connection, ()))
        made = list[_Made]()
        for name in tables.insert_order:
            one = changes.get(name, TableChanges())
            if one.removed or one.changed:
                raise DataInvalid(f"{file}: it may only add rows, and changes those of {name}")
            keys = [column.key for column in tables.tables[name].primary_key]
            if one.added and not keys:
                raise DataInvalid(
                    f"{file}: {name} has no primary key by which its rows could be taken away again"
                )
            made += [_Made(name, {key: row[key] for key in keys}) for row in one.added]
        return made

    def _read(self, connection: Connection, names: Sequence[str]) -> Snapshot:
        tables = self._map(connection)
        tables.check(names)
        found: dict[str, tuple[Rows, tuple[str, ...]]] = {}
        for name in names or tables.insert_order:
            table = tables.tables[name]
            rows: Rows = [dict(row) for row in connection.execute(select(table)).mappings()]
            found[name] = (rows, tuple(column.key for column in table.primary_key))
        return found

    def _resolved(self, rows: Sequence[Mapping[str, Any]]) -> Rows:
        """Rows with what their references to others stand for."""
        return [{column: self._value(column, value) for column, value in row.items()} for row in rows]

    def _value(self, column: str, value: object) -> object:
        if not isinstance(value, str) or not value.startswith("@"):
            return value
        name, _, of = value[1:].partition(".")
        if value.startswith("@@"):
            return value[1:]
        if name not in self._named:
            raise DataInvalid(
                f"{column}: no row is called {name}; there are {', '.join(sorted(self._named)) or 'none'}"
            )
        named = self._named[name]
        if not of and len(named.key) != 1:
            raise DataInvalid(
                f"{column}: {name} has no key of one column: say which you mean, as @{name}.column"
            )
        return named.row[of or named.key[0]]


class Data:
    """Test data in a database, blocking.

    Args:
        target: an ``Engine``, a ``Connection`` or a DSN.
        test: which test it is for: UUIDs are derived from this.
        tables: the map of its tables, where it is known already; otherwise it is read at the first use.

    Raises:
        WrongTarget: the target is none of these.
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
        """See that the block changes these rows, and nothing else in these tables, or in all; see ``check_changes``."""
        before = self.snapshot(*tables)
        yield
        self.check_changes(before, expected)


class AsyncData:
    """The same, awaited.

    Args:
        target: an ``AsyncEngine``, an ``AsyncConnection`` or a DSN.
        test: which test it is for: UUIDs are derived from this.
        tables: the map of its tables, where it is known already; otherwise it is read at the first use.

    Raises:
        WrongTarget: the target is none of these.
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
        """See that the block changes these rows, and nothing else in these tables, or in all; see ``check_changes``."""
        before = await self.snapshot(*tables)
        yield
        await self.check_changes(before, expected)


def _is(table: Table, key: Row) -> ColumnElement[bool]:
    return and_(*(table.c[name] == value for name, value in key.items()))
