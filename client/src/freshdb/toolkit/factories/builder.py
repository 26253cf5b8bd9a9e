"""How rows are made: what is given, what they refer to, what is drawn, and what PostgreSQL says of that."""

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
from freshdb.toolkit.factories.catalog import Check, TableCatalog, failing, quoted, read_facts
from freshdb.toolkit.factories.inserts import Row, as_text, copy_rows
from freshdb.toolkit.factories.values import Values
from freshdb.toolkit.tables import Reference, TableMap

Pools = dict[str, list[Row]]
"""Rows that are shared, by table."""

_POOL: Final = 100
_ROUNDS: Final = 40
_DISTINCT_ROUNDS: Final = 6
_PAIR: Final = 2


class NoValue(ToolkitError):
    """No valid value was found; the text names the column and says how to give one."""


class UnknownColumn(ToolkitError):
    """A value was given for something that the table does not have."""


@dataclass(eq=False)
class TableValues:
    """One table, and where its values come from."""

    facts: TableCatalog
    table: Table
    sources: dict[str, Values]
    pools: dict[str, list[object]]
    random: Random


@dataclass(frozen=True)
class BuilderCall:
    """What one call makes, and among how many."""

    shares: Mapping[str, int]
    pools: Pools
    above: tuple[str, ...]
    made: list[tuple[str, list[Row]]] = field(default_factory=list)


class RowBuilder:
    """Knows the tables of one database, and makes rows of them.

    Args:
        seed: another seed, other rows.
        tables: the database's map, if it was read before.
        faker: for what looks real.
    """

    def __init__(self, seed: int | str, tables: TableMap | None, faker: Faker) -> None:
        self._seed = seed
        self._tables = tables
        self._faker = faker
        self._known: dict[str, TableValues] = {}

    def map(self, connection: Connection) -> TableMap:
        """The database's tables."""
        if connection.dialect.name != "postgresql":
            raise WrongTarget(
                f"factories ask PostgreSQL what rows are valid, and this is {connection.dialect.name}"
            )
        if self._tables is None:
            self._tables = TableMap.of_connection(connection)
        return self._tables

    def knowledge(self, connection: Connection, name: str) -> TableValues:
        """Of one table, read when it is first needed."""
        if name in self._known:
            return self._known[name]
        tables = self.map(connection)
        tables.check([name])
        table = tables.tables[name]
        facts = read_facts(connection, table.schema, table.name)
        if not facts.key:
            raise ToolkitError(f"{name} has no primary key: its rows could not be found again to be deleted")
        sources = {
            column.name: Values(
                column,
                [check for check in facts.checks if check.columns == (column.name,)],
                f"{self._seed}/{name}/{column.name}",
                self._faker,
            )
            for column in facts.columns.values()
        }
        random = Random(f"{self._seed}/{name}")  # noqa: S311 - test data
        known = self._known[name] = TableValues(facts, table, sources, {}, random)
        return known

    def make(
        self, connection: Connection, name: str, number: int, given: Mapping[str, object], call: BuilderCall
    ) -> list[Row]:
        """Make so many rows of a table, and what they refer to."""
        known = self.knowledge(connection, name)
        facts = known.facts
        later = {column: value for column, value in given.items() if callable(value)}
        rows = _given(
            name, facts, {column: value for column, value in given.items() if column not in later}, number
        )
        references = [one for one in self.map(connection).references if one.of == name]
        turns = list(range(number))
        for reference in sorted(references, key=lambda one: -len(one.columns)):
            if reference.to != name and not set(reference.columns) & later.keys():
                turns = self._refer(connection, reference, rows, turns, call)
        self._fill(connection, name, known, rows, later.keys())
        for reference in references:
            if reference.to == name and not reference.nullable:
                _refer_to_themselves(reference, rows)
        for column, value in later.items():
            for row in rows:
                row[column] = cast("Callable[[Row], object]", value)(row)
        self._keep_checks(connection, name, known, rows, given.keys())
        _see_unique(name, facts, rows)
        columns = {column: facts.columns[column].type for column in facts.columns if column in rows[0]}
        copy_rows(connection, known.table, columns, rows)
        call.made.append((name, rows))
        return rows

    def _refer(
        self,
        connection: Connection,
        reference: Reference,
        rows: list[Row],
        turns: list[int],
        call: BuilderCall,
    ) -> list[int]:
        """Give each row something to refer to. By `turns`, rows take turns with what is shared, in ever new combinations."""
        there = [column for column in reference.columns if column in rows[0]]
        shared = call.shares.get(reference.to)
        if len(there) == len(reference.columns) or (reference.nullable and not there and shared is None):
            return turns
        if reference.to in call.above:
            circle = " → ".join([*call.above, reference.to])
            raise CircularTables(f"{circle}: give {', '.join(reference.columns)} of {reference.of} a value")
        below = replace(call, above=(*call.above, reference.to))
        if there or shared is None:
            given = {
                referred: iter([row[own] for row in rows])
                for own, referred in zip(reference.columns, reference.referred, strict=True)
                if own in there
            }
            parents = self.make(connection, reference.to, len(rows), given, below)
        else:
            pool = call.pools.get(reference.to)
            if pool is None:
                pool = call.pools[reference.to] = self.make(connection, reference.to, shared, {}, below)
            parents = [pool[turn % len(pool)] for turn in turns]
            turns = [turn % len(pool) + turn // len(pool) for turn in turns]
        for row, parent in zip(rows, parents, strict=True):
            for own, referred in zip(reference.columns, reference.referred, strict=True):
                row[own] = parent[referred]
        return turns

    def _fill(
        self, connection: Connection, name: str, known: TableValues, rows: list[Row], later: AbstractSet[str]
    ) -> None:
        """Give each row what it still lacks."""
        facts = known.facts
        tables = self.map(connection)
        referred = {column for one in tables.references if one.to == name for column in one.referred}
        own = {column for one in tables.references if one.of == name for column in one.columns}
        needed = (
            referred
            | set(facts.key)
            | {name for check in facts.checks if len(check.columns) > 1 for name in check.columns}
        )
        open_ = [
            column
            for column in facts.columns.values()
            if column.name not in rows[0]
            and column.name not in later
            and column.name not in own
            and (not column.fills_itself or column.name in needed)
        ]
        names = {column.name for column in open_}
        alone = {
            [one for one in unique if one in names][-1] for unique in facts.uniques if names & set(unique)
        }
        self._fill_pools(
            connection,
            name,
            known,
            [one.name for one in open_ if one.name not in alone and one.sequence is None],
        )
        for column in open_:
            if column.sequence is not None:
                numbers = text("SELECT nextval(CAST(:name AS regclass)) FROM generate_series(1, :number)")
                found: Sequence[object] = connection.scalars(
                    numbers, {"name": column.sequence, "number": len(rows)}
                ).all()
            elif column.name in alone:
                found = self._distinct(connection, name, known, column.name, len(rows))
            else:
                pool = known.pools[column.name]
                found = known.random.choices(pool, k=len(rows))
            for row, value in zip(rows, found, strict=True):
                row[column.name] = value

    def _fill_pools(
        self, connection: Connection, name: str, known: TableValues, columns: Sequence[str]
    ) -> None:
        """Draw candidates of several columns, and keep those that PostgreSQL finds valid: one round trip for all."""
        facts = known.facts
        todo = [column for column in columns if column not in known.pools]
        for size in (_POOL, 10 * _POOL):
            drawn = {one: known.sources[one].draw(size) for one in todo if known.sources[one].possible}
            for column, values in drawn.items():
                known.pools[column] = values
            checks = [one for one in facts.checks if len(one.columns) == 1 and one.columns[0] in drawn]
            if checks:
                asked = list(dict.fromkeys(check.columns[0] for check in checks))
                rows = list(
                    zip(
                        *([as_text(value, facts.columns[one].type) for value in drawn[one]] for one in asked),
                        strict=True,
                    )
                )
                bad = failing(connection, facts, checks, rows, asked)
                for one in asked:
                    out = set().union(*(bad[check] for check in checks if check.columns == (one,)))
                    known.pools[one] = [value for at, value in enumerate(drawn[one]) if at not in out]
            todo = [one for one in todo if not known.pools.get(one)]
            if not todo:
                return
        for column in todo:
            if facts.columns[column].nullable:
                known.pools[column] = [None]
            else:
                raise NoValue(_no_value(name, facts, column))

    def _distinct(
        self, connection: Connection, name: str, known: TableValues, column: str, number: int
    ) -> list[object]:
        facts, source = known.facts, known.sources[column]
        kind = facts.columns[column].type
        checks = [check for check in facts.checks if check.columns == (column,)]
        found: dict[str | None, object] = {}
        cast_ = f"CAST(v AS {facts.columns[column].declared})"
        there = text(
            f"SELECT n - 1 FROM unnest(CAST(:given AS text[])) WITH ORDINALITY AS given(v, n) WHERE EXISTS (SELECT FROM "
            f"{name_of(connection, known.table)} AS t WHERE t.{quoted(column)} = {cast_})"
        )
        for turn in range(_DISTINCT_ROUNDS):
            size = number if turn == 0 else max(number - len(found), _POOL * 4**turn)
            drawn = {as_text(value, kind): value for value in source.draw_distinct(size)}
            texts = list(drawn)
            out = set(connection.scalars(there, {"given": texts}))
            if checks and texts:
                out |= set().union(
                    *failing(connection, facts, checks, [[one] for one in texts], [column]).values()
                )
            found |= {one: drawn[one] for at, one in enumerate(texts) if at not in out}
            if len(found) >= number:
                return list(found.values())[:number]
        raise NoValue(
            f"{_no_value(name, facts, column)} It is unique, and {number} different values are wanted."
        )

    def _keep_checks(
        self, connection: Connection, name: str, known: TableValues, rows: list[Row], given: AbstractSet[str]
    ) -> None:
        """Have the checks of several columns kept, by drawing again where one is not."""
        facts = known.facts
        checks = [one for one in facts.checks if len(one.columns) > 1]
        columns = list(dict.fromkeys(column for check in checks for column in check.columns))
        if not checks:
            return
        for row in rows:
            for column in columns:
                row.setdefault(column, None)
        broken = list(rows)
        bad: dict[Check, set[int]] = {}
        for turn in range(_ROUNDS):
            asked = [
                [as_text(row[column], facts.columns[column].type) for column in columns] for row in broken
            ]
            bad = failing(connection, facts, checks, asked, columns)
            for check in checks:
                free = [one for one in check.columns if one in known.pools and one not in given]
                for at in bad[check]:
                    _draw_again(known, broken[at], free, turn)
            broken = [broken[at] for at in sorted(set().union(*bad.values()))]
            if not broken:
                return
        first = next(check for check in checks if bad[check])
        raise NoValue(
            f"{name}: no row was found that keeps CHECK {first.name} ({first.expression}): say how "
            f"{' or '.join(first.columns)} is made, as in having({first.columns[-1]}=lambda row: …)"
        )


def _given(name: str, facts: TableCatalog, given: Mapping[str, object], number: int) -> list[Row]:
    for column in given:
        if column not in facts.columns:
            raise UnknownColumn(
                f"{name} has no column {column!r} to be written; it has {', '.join(facts.columns)}"
            )
    rows: list[Row] = [{} for _ in range(number)]
    for column, value in given.items():
        for row, one in zip(rows, value if isinstance(value, Iterator) else repeat(value), strict=False):
            row[column] = one
        if column not in rows[-1]:
            raise NoValue(f"{name}: the values given for {column} have ended before {number} rows had one")
    return rows


def _refer_to_themselves(reference: Reference, rows: Sequence[Row]) -> None:
    for row in rows:
        for own, referred in zip(reference.columns, reference.referred, strict=True):
            row.setdefault(own, row[referred])


def _draw_again(known: TableValues, row: Row, free: Sequence[str], turn: int) -> None:
    kinds = {known.facts.columns[one].type for one in free}
    if turn == 0 and len(free) == _PAIR and len(kinds) == 1:  # most often, one is to be before the other
        row[free[0]], row[free[1]] = row[free[1]], row[free[0]]
        return
    for column in free:
        empty = known.facts.columns[column].nullable and known.random.random() < 1 / 3
        row[column] = None if empty else known.random.choice(known.pools[column])


def _see_unique(name: str, facts: TableCatalog, rows: Sequence[Row]) -> None:
    for unique in facts.uniques:
        if all(column in rows[0] for column in unique):
            keys = [
                key for row in rows if None not in (key := tuple(as_text(row[one], "") for one in unique))
            ]
            if len(set(keys)) < len(keys):
                raise NoValue(
                    f"{name}: {', '.join(unique)} must be unique, and {len(keys)} rows have {len(set(keys))} different "
                    "values: give others, as an iterator, or share among more rows"
                )


def _no_value(name: str, facts: TableCatalog, column: str) -> str:
    said = " and ".join(
        f"CHECK {one.name} ({one.expression})" for one in facts.checks if one.columns == (column,)
    )
    return (
        f"{name}.{column}: no valid value of type {facts.columns[column].declared}{f' for {said}' if said else ''} was "
        f"found: give one, as in having({column}=…)."
    )


def by_key(facts: TableCatalog, rows: Sequence[Row]) -> tuple[str, str, dict[str, list[str | None]]]:
    """Rows by their primary keys: what to join, by which condition, and the parameters."""
    values = ", ".join(f"CAST(:k{at} AS text[])" for at in range(len(facts.key)))
    names = ", ".join(f"k{at}" for at in range(len(facts.key)))
    condition = " AND ".join(
        f"t.{quoted(column)} = CAST(made.k{at} AS {facts.columns[column].declared})"
        for at, column in enumerate(facts.key)
    )
    keys = {
        f"k{at}": [as_text(row[column], facts.columns[column].type) for row in rows]
        for at, column in enumerate(facts.key)
    }
    return f"unnest({values}) WITH ORDINALITY AS made({names}, n)", condition, keys


def name_of(connection: Connection, table: Table) -> str:
    """The table, in SQL text of SQLAlchemy's."""
    return connection.dialect.identifier_preparer.format_table(table).replace(":", "\\:")
