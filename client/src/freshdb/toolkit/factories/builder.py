"""Building rows: given values, referenced rows, generated values, and PostgreSQL's verdict on CHECK constraints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from itertools import repeat
from random import Random
from typing import Final, cast

from faker import Faker
from sqlalchemy import Connection, Table, text

from freshdb.toolkit.errors import CircularTables, ToolkitError, WrongTarget
from freshdb.toolkit.factories.catalog import Check, TableCatalog, failing_rows, quoted, read_catalog
from freshdb.toolkit.factories.inserts import Row, as_text, copy_rows
from freshdb.toolkit.factories.values import Values
from freshdb.toolkit.tables import Reference, TableMap

Pools = dict[str, list[Row]]
"""The shared rows, by table."""

_POOL_SIZE: Final = 100
_ATTEMPTS: Final = 40
_DISTINCT_ATTEMPTS: Final = 6
_PAIR: Final = 2


class NoValue(ToolkitError):
    """No valid value was found. The message names the column and how to set it."""


class UnknownColumn(ToolkitError):
    """A value was given for a column, relationship or trait that does not exist."""


@dataclass(eq=False)
class TableValues:
    """The catalog of one table, and the generators of its values."""

    catalog: TableCatalog
    definition: Table
    generators: dict[str, Values]
    pools: dict[str, list[object]]
    random: Random


@dataclass(frozen=True)
class BuilderCall:
    """State of one call: shared rows, the tables above the current one, and the rows that were created."""

    shares: Mapping[str, int]
    pools: Pools
    ancestors: tuple[str, ...]
    created: list[tuple[str, list[Row]]] = field(default_factory=list)


class RowBuilder:
    """Builds rows of the tables of one database.

    Args:
        seed: seed of the random values.
        tables: tables of the database. By default they are read at the first use.
        faker: generator of realistic text.
    """

    def __init__(self, seed: int | str, tables: TableMap | None, faker: Faker) -> None:
        self._seed = seed
        self._tables = tables
        self._faker = faker
        self._table_values: dict[str, TableValues] = {}

    def map(self, connection: Connection) -> TableMap:
        """Return the tables of the database."""
        if connection.dialect.name != "postgresql":
            raise WrongTarget(
                f"factories need PostgreSQL to check rows, and this is {connection.dialect.name}"
            )
        if self._tables is None:
            self._tables = TableMap.of_connection(connection)
        return self._tables

    def table_values(self, connection: Connection, name: str) -> TableValues:
        """Return the values of one table, which is read when it is first needed."""
        if name in self._table_values:
            return self._table_values[name]
        tables = self.map(connection)
        tables.check([name])
        definition = tables.tables[name]
        catalog = read_catalog(connection, definition.schema, definition.name)
        if not catalog.key:
            raise ToolkitError(f"{name} has no primary key, so its rows could not be deleted again")
        generators = {
            column.name: Values(
                column,
                [check for check in catalog.checks if check.columns == (column.name,)],
                f"{self._seed}/{name}/{column.name}",
                self._faker,
            )
            for column in catalog.columns.values()
        }
        random = Random(f"{self._seed}/{name}")  # noqa: S311 - test data
        self._table_values[name] = TableValues(catalog, definition, generators, {}, random)
        return self._table_values[name]

    def build(
        self, connection: Connection, name: str, number: int, given: Mapping[str, object], call: BuilderCall
    ) -> list[Row]:
        """Create `number` rows of a table, and the rows that they refer to."""
        table = self.table_values(connection, name)
        catalog = table.catalog
        computed = {column: value for column, value in given.items() if callable(value)}
        fixed = {column: value for column, value in given.items() if column not in computed}
        rows = _given_rows(name, catalog, fixed, number)
        references = [one for one in self.map(connection).references if one.of == name]
        positions = list(range(number))
        for reference in sorted(references, key=lambda one: -len(one.columns)):
            if reference.to != name and not set(reference.columns) & computed.keys():
                positions = self._add_references(connection, reference, rows, positions, call)
        self._add_values(connection, name, table, rows, computed.keys())
        for reference in references:
            if reference.to == name and not reference.nullable:
                _add_self_references(reference, rows)
        for column, value in computed.items():
            for row in rows:
                row[column] = cast("Callable[[Row], object]", value)(row)
        self._satisfy_checks(connection, name, table, rows, given.keys())
        _check_unique(name, catalog, rows)
        columns = {column: catalog.columns[column].type for column in catalog.columns if column in rows[0]}
        copy_rows(connection, table.definition, columns, rows)
        call.created.append((name, rows))
        return rows

    def _add_references(
        self,
        connection: Connection,
        reference: Reference,
        rows: list[Row],
        positions: list[int],
        call: BuilderCall,
    ) -> list[int]:
        """Set the references of each row. `positions` select shared rows, and the result selects other combinations next."""
        present = [column for column in reference.columns if column in rows[0]]
        shared = call.shares.get(reference.to)
        if len(present) == len(reference.columns) or (reference.nullable and not present and shared is None):
            return positions
        if reference.to in call.ancestors:
            cycle = " → ".join([*call.ancestors, reference.to])
            raise CircularTables(f"{cycle}: give {', '.join(reference.columns)} of {reference.of} a value")
        child_call = replace(call, ancestors=(*call.ancestors, reference.to))
        if present or shared is None:
            given = {
                referred: iter([row[own] for row in rows])
                for own, referred in zip(reference.columns, reference.referred, strict=True)
                if own in present
            }
            parents = self.build(connection, reference.to, len(rows), given, child_call)
        else:
            pool = call.pools.get(reference.to)
            if pool is None:
                pool = call.pools[reference.to] = self.build(connection, reference.to, shared, {}, child_call)
            parents = [pool[position % len(pool)] for position in positions]
            positions = [position % len(pool) + position // len(pool) for position in positions]
        for row, parent in zip(rows, parents, strict=True):
            for own, referred in zip(reference.columns, reference.referred, strict=True):
                row[own] = parent[referred]
        return positions

    def _add_values(
        self,
        connection: Connection,
        name: str,
        table: TableValues,
        rows: list[Row],
        computed: AbstractSet[str],
    ) -> None:
        """Set the columns of each row that have no value yet."""
        catalog = table.catalog
        tables = self.map(connection)
        referred = {column for one in tables.references if one.to == name for column in one.referred}
        own = {column for one in tables.references if one.of == name for column in one.columns}
        needed = (
            referred
            | set(catalog.key)
            | {name for check in catalog.checks if len(check.columns) > 1 for name in check.columns}
        )
        missing = [
            column
            for column in catalog.columns.values()
            if column.name not in rows[0]
            and column.name not in computed
            and column.name not in own
            and (not column.has_default or column.name in needed)
        ]
        names = {column.name for column in missing}
        unique_columns = {
            [one for one in unique if one in names][-1] for unique in catalog.uniques if names & set(unique)
        }
        self._fill_pools(
            connection,
            name,
            table,
            [one.name for one in missing if one.name not in unique_columns and one.sequence is None],
        )
        for column in missing:
            if column.sequence is not None:
                numbers = text("SELECT nextval(CAST(:name AS regclass)) FROM generate_series(1, :number)")
                found: Sequence[object] = connection.scalars(
                    numbers, {"name": column.sequence, "number": len(rows)}
                ).all()
            elif column.name in unique_columns:
                found = self._draw_distinct(connection, name, table, column.name, len(rows))
            else:
                pool = table.pools[column.name]
                found = table.random.choices(pool, k=len(rows))
            for row, value in zip(rows, found, strict=True):
                row[column.name] = value

    def _fill_pools(
        self, connection: Connection, name: str, table: TableValues, columns: Sequence[str]
    ) -> None:
        """Generate candidates for several columns, and keep the valid ones. PostgreSQL checks all in one round trip."""
        catalog = table.catalog
        todo = [column for column in columns if column not in table.pools]
        for size in (_POOL_SIZE, 10 * _POOL_SIZE):
            drawn = {one: table.generators[one].draw(size) for one in todo if table.generators[one].possible}
            for column, values in drawn.items():
                table.pools[column] = values
            checks = [one for one in catalog.checks if len(one.columns) == 1 and one.columns[0] in drawn]
            if checks:
                asked = list(dict.fromkeys(check.columns[0] for check in checks))
                texts = ([as_text(value, catalog.columns[one].type) for value in drawn[one]] for one in asked)
                rows = list(zip(*texts, strict=True))
                bad = failing_rows(connection, catalog, checks, rows, asked)
                for one in asked:
                    out = set().union(*(bad[check] for check in checks if check.columns == (one,)))
                    table.pools[one] = [value for at, value in enumerate(drawn[one]) if at not in out]
            todo = [one for one in todo if not table.pools.get(one)]
            if not todo:
                return
        for column in todo:
            if catalog.columns[column].nullable:
                table.pools[column] = [None]
            else:
                raise NoValue(_no_value_message(name, catalog, column))

    def _draw_distinct(
        self, connection: Connection, name: str, table: TableValues, column: str, number: int
    ) -> list[object]:
        catalog, generator = table.catalog, table.generators[column]
        kind = catalog.columns[column].type
        checks = [check for check in catalog.checks if check.columns == (column,)]
        found: dict[str | None, object] = {}
        cast_ = f"CAST(v AS {catalog.columns[column].declared})"
        there = text(
            f"SELECT n - 1 FROM unnest(CAST(:given AS text[])) WITH ORDINALITY AS given(v, n) WHERE EXISTS (SELECT FROM "
            f"{name_of(connection, table.definition)} AS t WHERE t.{quoted(column)} = {cast_})"
        )
        for attempt in range(_DISTINCT_ATTEMPTS):
            size = number if attempt == 0 else max(number - len(found), _POOL_SIZE * 4**attempt)
            drawn = {as_text(value, kind): value for value in generator.draw_distinct(size)}
            texts = list(drawn)
            out = set(connection.scalars(there, {"given": texts}))
            if checks and texts:
                out |= set().union(
                    *failing_rows(connection, catalog, checks, [[one] for one in texts], [column]).values()
                )
            found |= {one: drawn[one] for at, one in enumerate(texts) if at not in out}
            if len(found) >= number:
                return list(found.values())[:number]
        raise NoValue(
            f"{_no_value_message(name, catalog, column)} It is unique, and {number} different values are needed."
        )

    def _satisfy_checks(
        self, connection: Connection, name: str, table: TableValues, rows: list[Row], given: AbstractSet[str]
    ) -> None:
        """Satisfy the CHECKs over several columns: generate values again in rows that violate one."""
        catalog = table.catalog
        checks = [one for one in catalog.checks if len(one.columns) > 1]
        columns = list(dict.fromkeys(column for check in checks for column in check.columns))
        if not checks:
            return
        for row in rows:
            for column in columns:
                row.setdefault(column, None)
        invalid = list(rows)
        bad: dict[Check, set[int]] = {}
        for attempt in range(_ATTEMPTS):
            asked = [
                [as_text(row[column], catalog.columns[column].type) for column in columns] for row in invalid
            ]
            bad = failing_rows(connection, catalog, checks, asked, columns)
            for check in checks:
                free = [one for one in check.columns if one in table.pools and one not in given]
                for at in bad[check]:
                    _redraw(table, invalid[at], free, attempt)
            invalid = [invalid[at] for at in sorted(set().union(*bad.values()))]
            if not invalid:
                return
        first = next(check for check in checks if bad[check])
        raise NoValue(
            f"{name}: no row was found that satisfies CHECK {first.name} ({first.expression}): set "
            f"{' or '.join(first.columns)} by a function, as in having({first.columns[-1]}=lambda row: …)"
        )


def _given_rows(name: str, catalog: TableCatalog, given: Mapping[str, object], number: int) -> list[Row]:
    for column in given:
        if column not in catalog.columns:
            raise UnknownColumn(
                f"{name} has no writable column {column!r}; it has {', '.join(catalog.columns)}"
            )
    rows: list[Row] = [{} for _ in range(number)]
    for column, value in given.items():
        for row, one in zip(rows, value if isinstance(value, Iterator) else repeat(value), strict=False):
            row[column] = one
        if column not in rows[-1]:
            raise NoValue(f"{name}: the iterator for {column} has ended before {number} rows had a value")
    return rows


def _add_self_references(reference: Reference, rows: Sequence[Row]) -> None:
    for row in rows:
        for own, referred in zip(reference.columns, reference.referred, strict=True):
            row.setdefault(own, row[referred])


def _redraw(table: TableValues, row: Row, free: Sequence[str], attempt: int) -> None:
    kinds = {table.catalog.columns[one].type for one in free}
    if attempt == 0 and len(free) == _PAIR and len(kinds) == 1:  # often, one value must be less
        row[free[0]], row[free[1]] = row[free[1]], row[free[0]]
        return
    for column in free:
        empty = table.catalog.columns[column].nullable and table.random.random() < 1 / 3
        row[column] = None if empty else table.random.choice(table.pools[column])


def _check_unique(name: str, catalog: TableCatalog, rows: Sequence[Row]) -> None:
    for unique in catalog.uniques:
        if all(column in rows[0] for column in unique):
            keys = [
                key for row in rows if None not in (key := tuple(as_text(row[one], "") for one in unique))
            ]
            if len(set(keys)) < len(keys):
                raise NoValue(
                    f"{name}: {', '.join(unique)} must be unique, and {len(keys)} rows have {len(set(keys))} different "
                    "values: give different values by an iterator, or share among more rows"
                )


def _no_value_message(name: str, catalog: TableCatalog, column: str) -> str:
    checks = " and ".join(
        f"CHECK {one.name} ({one.expression})" for one in catalog.checks if one.columns == (column,)
    )
    return (
        f"{name}.{column}: no valid value of type {catalog.columns[column].declared}{f' for {checks}' if checks else ''} "
        f"was found: set one, as in having({column}=…)."
    )


def join_by_key(catalog: TableCatalog, rows: Sequence[Row]) -> tuple[str, str, dict[str, list[str | None]]]:
    """Return a FROM item with the primary keys of rows, the join condition, and the parameters."""
    values = ", ".join(f"CAST(:k{at} AS text[])" for at in range(len(catalog.key)))
    names = ", ".join(f"k{at}" for at in range(len(catalog.key)))
    condition = " AND ".join(
        f"t.{quoted(column)} = CAST(wanted.k{at} AS {catalog.columns[column].declared})"
        for at, column in enumerate(catalog.key)
    )
    keys = {
        f"k{at}": [as_text(row[column], catalog.columns[column].type) for row in rows]
        for at, column in enumerate(catalog.key)
    }
    return f"unnest({values}) WITH ORDINALITY AS wanted({names}, n)", condition, keys


def name_of(connection: Connection, table: Table) -> str:
    """Return the name of a table for SQLAlchemy's ``text``."""
    return connection.dialect.identifier_preparer.format_table(table).replace(":", "\\:")
