"""Valid rows on demand: realistic, reproducible, with the rows that they refer to, and gone afterwards.

::

    with Factories(engine, seed=7) as factories:
        payments = factories.of(Payment, traits={"refunded": {"status": "refunded"}})
        payment = payments.create(amount=Decimal(5))                  # and an account, and its customer
        payments.trait("refunded").sharing("customer").create_many(1000)   # all of one customer
    # exactly these rows are gone

A factory is for a declarative model of SQLAlchemy's, whose instances it gives, or for the name of a table, whose rows it
gives as dictionaries. What a row takes is read from the database itself: types, lengths, labels, CHECKs, what is unique, and
what refers to what. Candidates are made by Faker (by the column's name) and by what CHECKs say in their common shapes; then
PostgreSQL is asked, once for all, which of them keep the CHECKs, whatever those say. Rows are written by COPY.

- A column with a default, and a reference that may be null, is left alone unless it is given.
- A row that must be referred to is made, one for each row; `DataFactory.sharing` says among how many.
- The same seed gives the same rows in an equal database, sequences aside.
- One call makes all its rows or none.

PostgreSQL alone, by psycopg, psycopg2 or asyncpg. Exclusion constraints and triggers are not foreseen: what they refuse is
PostgreSQL's own error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import repeat, tee
from random import Random
from typing import Any, Final, Generic, Self, TypeVar, cast, overload

from faker import Faker
from sqlalchemy import Column, Connection, Table, TypeDecorator, inspect, select, text
from sqlalchemy import Enum as EnumType
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.orm import Mapper, Session

from freshdb.toolkit.connecting import AsyncTarget, Target, run, run_async
from freshdb.toolkit.errors import CircularTables, ToolkitError, WrongTarget
from freshdb.toolkit.factories.catalog import Check, TableFacts, failing, quoted, read_facts
from freshdb.toolkit.factories.values import Values
from freshdb.toolkit.factories.writing import Row, RowsRefused, as_text, copy_rows
from freshdb.toolkit.tables import Reference, TableMap

__all__ = ["DataFactory", "Factories", "NoValue", "Row", "RowsRefused", "UnknownColumn"]

T = TypeVar("T")
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
class _Knowledge:
    """One table, and where its values come from."""

    facts: TableFacts
    table: Table
    sources: dict[str, Values]
    pools: dict[str, list[object]]
    random: Random


@dataclass(frozen=True)
class _Call:
    """What one call makes, and among how many."""

    shares: Mapping[str, int]
    pools: Pools
    above: tuple[str, ...]
    made: list[tuple[str, list[Row]]] = field(default_factory=list)


class Factories:
    """Makes factories over one database, remembers what they made, and takes it away again.

    Args:
        target: an engine, a connection or a DSN; an asynchronous one for the calls that are awaited.
        seed: another seed, other rows.
        tables: the database's map, if it was read before: reading it takes most of the time.
        locale: Faker's.

    Raises:
        WrongTarget: the target is no PostgreSQL.
    """

    def __init__(
        self,
        target: Target | AsyncTarget,
        *,
        seed: int | str = 0,
        tables: TableMap | None = None,
        locale: str = "en_US",
    ) -> None:
        self._target = target
        self._seed = seed
        self._tables = tables
        self._faker = Faker(locale)
        self._known: dict[str, _Knowledge] = {}
        self._made: list[tuple[str, list[Row]]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.clean()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.clean_async()

    @overload
    def of(
        self, model: str, *, traits: Mapping[str, Mapping[str, object]] | None = None, **values: object
    ) -> DataFactory[Row]: ...
    @overload
    def of(
        self, model: type[T], *, traits: Mapping[str, Mapping[str, object]] | None = None, **values: object
    ) -> DataFactory[T]: ...
    def of(
        self,
        model: str | type[T],
        *,
        traits: Mapping[str, Mapping[str, object]] | None = None,
        **values: object,
    ) -> DataFactory[Row] | DataFactory[T]:
        """Make a factory for a model or a table.

        Args:
            model: a declarative class, or a table's name (``audit.event`` in another schema).
            traits: sets of values by name, for `DataFactory.trait`.
            **values: for every row; see `DataFactory.having`.

        Raises:
            WrongTarget: this is no declarative class.
        """
        if isinstance(model, str):
            return DataFactory[Row](self, model, None, traits or {}, values)
        try:
            mapper: Mapper[T] = inspect(model)
            table = cast("Table", mapper.local_table).key
        except (NoInspectionAvailable, AttributeError):
            raise WrongTarget(f"{model!r} is no declarative model: give one, or a table's name") from None
        return DataFactory[T](self, table, mapper, traits or {}, values)

    def clean(self) -> None:
        """Delete exactly the rows that were made here and not deleted since, those that refer to others first."""
        if self._made:
            run(cast("Target", self._target), self._clean)
            self._made.clear()

    async def clean_async(self) -> None:
        """Do what `clean` does, on an asynchronous target."""
        if self._made:
            await run_async(cast("AsyncTarget", self._target), self._clean)
            self._made.clear()

    def _clean(self, connection: Connection) -> None:
        for name in self._map(connection).delete_order:
            rows = [row for table, made in self._made if table == name for row in made]
            if rows:
                made, condition, keys = _by_key(self._knowledge(connection, name).facts, rows)
                table = _name(connection, self._known[name].table)
                connection.execute(text(f"DELETE FROM {table} AS t USING {made} WHERE {condition}"), keys)

    # Making rows

    def _map(self, connection: Connection) -> TableMap:
        if connection.dialect.name != "postgresql":
            raise WrongTarget(
                f"factories ask PostgreSQL what rows are valid, and this is {connection.dialect.name}"
            )
        if self._tables is None:
            self._tables = TableMap.of_connection(connection)
        return self._tables

    def _knowledge(self, connection: Connection, name: str) -> _Knowledge:
        if name in self._known:
            return self._known[name]
        tables = self._map(connection)
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
        known = self._known[name] = _Knowledge(facts, table, sources, {}, random)
        return known

    def _make(
        self, connection: Connection, name: str, number: int, given: Mapping[str, object], call: _Call
    ) -> list[Row]:
        known = self._knowledge(connection, name)
        facts = known.facts
        later = {column: value for column, value in given.items() if callable(value)}
        rows = _given(
            name, facts, {column: value for column, value in given.items() if column not in later}, number
        )
        references = [one for one in self._map(connection).references if one.of == name]
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
        self, connection: Connection, reference: Reference, rows: list[Row], turns: list[int], call: _Call
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
            parents = self._make(connection, reference.to, len(rows), given, below)
        else:
            pool = call.pools.get(reference.to)
            if pool is None:
                pool = call.pools[reference.to] = self._make(connection, reference.to, shared, {}, below)
            parents = [pool[turn % len(pool)] for turn in turns]
            turns = [turn % len(pool) + turn // len(pool) for turn in turns]
        for row, parent in zip(rows, parents, strict=True):
            for own, referred in zip(reference.columns, reference.referred, strict=True):
                row[own] = parent[referred]
        return turns

    def _fill(
        self, connection: Connection, name: str, known: _Knowledge, rows: list[Row], later: AbstractSet[str]
    ) -> None:
        """Give each row what it still lacks."""
        facts = known.facts
        tables = self._map(connection)
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
        self, connection: Connection, name: str, known: _Knowledge, columns: Sequence[str]
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
        self, connection: Connection, name: str, known: _Knowledge, column: str, number: int
    ) -> list[object]:
        facts, source = known.facts, known.sources[column]
        kind = facts.columns[column].type
        checks = [check for check in facts.checks if check.columns == (column,)]
        found: dict[str | None, object] = {}
        there = text(
            f"SELECT n - 1 FROM unnest(CAST(:given AS text[])) WITH ORDINALITY AS given(v, n) WHERE EXISTS (SELECT FROM "
            f"{_name(connection, known.table)} AS t WHERE t.{quoted(column)} = CAST(v AS {facts.columns[column].declared}))"
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
        self, connection: Connection, name: str, known: _Knowledge, rows: list[Row], given: AbstractSet[str]
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


class DataFactory(Generic[T]):
    """Makes rows of one table; `Factories.of` gives one.

    A factory never changes: `having`, `trait` and `sharing` give another one.
    """

    def __init__(
        self,
        factories: Factories,
        table: str,
        mapper: Mapper[Any] | None,
        traits: Mapping[str, Mapping[str, object]],
        values: Mapping[str, object],
        shares: Mapping[str, int] | None = None,
        pools: Pools | None = None,
    ) -> None:
        self._factories = factories
        self._table = table
        self._mapper = mapper
        self._traits = traits
        self._values = values
        self._shares = shares or {}
        self._pools = pools if pools is not None else {}

    def having(self, **values: object) -> DataFactory[T]:
        """Give values by the names of columns or of a model's attributes.

        A row to refer to is given by the name of the relationship, of the column without ``_id``, or of the other table.
        A function is called with the row made so far, as a dictionary of columns; an iterator gives one value to each row.
        """
        return self._with(values={**self._values, **values})

    def trait(self, *names: str) -> DataFactory[T]:
        """Give the values of these traits; the last one wins.

        Raises:
            UnknownColumn: there is no such trait.
        """
        chosen = self
        for name in names:
            if name not in self._traits:
                raise UnknownColumn(
                    f"{self._table} has no trait {name!r}; it has {', '.join(self._traits) or 'none'}"
                )
            chosen = chosen.having(**self._traits[name])
        return chosen

    def sharing(self, *tables: str, among: int = 1) -> DataFactory[T]:
        """Let all rows that this factory makes, and those made for them, refer to the same `among` rows of these tables."""
        return self._with(shares={**self._shares, **dict.fromkeys(tables, among)}, pools=dict(self._pools))

    def create(self, **values: object) -> T:
        """Make one row; see `create_many`."""
        return self.create_many(1, **values)[0]

    def create_many(self, number: int, **values: object) -> list[T]:
        """Make rows, and those that they refer to; give them as they are in the database now.

        Raises:
            NoValue: a column or a CHECK for which no valid value was found.
            UnknownColumn: a value was given for something that the table does not have.
            RowsRefused: PostgreSQL's own refusal of what was given.
            UnknownTable: there is no such table; `NotATable`: it is a view or a partition.
            CircularTables: rows would have to be there before each other.
            ToolkitError: a table without a primary key.
        """
        call = self._call()
        target = cast("Target", self._factories._target)
        return self._done(run(target, lambda it: self._make(it, number, values, call)), call)

    async def create_async(self, **values: object) -> T:
        """Do what `create` does, on an asynchronous target."""
        return (await self.create_many_async(1, **values))[0]

    async def create_many_async(self, number: int, **values: object) -> list[T]:
        """Do what `create_many` does, on an asynchronous target."""
        call = self._call()
        target = cast("AsyncTarget", self._factories._target)
        return self._done(await run_async(target, lambda it: self._make(it, number, values, call)), call)

    def _with(self, **changes: Any) -> DataFactory[T]:  # noqa: ANN401 - three of the constructor's arguments
        now = {"values": self._values, "shares": self._shares, "pools": self._pools}
        return DataFactory[T](self._factories, self._table, self._mapper, self._traits, **(now | changes))

    def _call(self) -> _Call:
        return _Call(self._shares, dict(self._pools), (self._table,))

    def _done(self, made: list[T], call: _Call) -> list[T]:
        """Only now that it is in the database."""
        self._factories._made += call.made
        self._pools.update(call.pools)
        return made

    def _make(
        self, connection: Connection, number: int, values: Mapping[str, object], call: _Call
    ) -> list[T]:
        if number < 1:
            raise ValueError(f"number: at least 1 row can be made, not {number}")
        factories = self._factories
        tables = factories._map(connection)
        tables.check([self._table, *self._shares])
        strangers = self._shares.keys() - tables.referred([self._table])
        if strangers:
            raise UnknownColumn(
                f"{self._table} does not refer to {', '.join(strangers)}, so nothing of it can be shared"
            )
        given: dict[str, object] = {}
        for key, value in {**self._values, **values}.items():
            given |= self._columns(connection, tables, key, value)
        rows = factories._make(connection, self._table, number, given, call)
        known = factories._knowledge(connection, self._table)
        made, condition, keys = _by_key(known.facts, rows)
        statement = text(
            f"SELECT t.* FROM {_name(connection, known.table)} AS t JOIN {made} ON {condition} ORDER BY made.n"
        )
        if self._mapper is None:
            return [cast("T", dict(row)) for row in connection.execute(statement, keys).mappings()]
        with Session(connection) as session:
            found = session.scalars(select(self._mapper.class_).from_statement(statement), keys).all()
            session.expunge_all()
        return list(found)

    def _columns(
        self, connection: Connection, tables: TableMap, key: str, value: object
    ) -> dict[str, object]:
        """What was given, by columns."""
        columns = tables.tables[self._table].columns
        if self._mapper is not None and key in self._mapper.columns:
            column = self._mapper.columns[key]
            return {column.name: _each(value, lambda one: _bound(connection, column, one))}
        if key in columns:
            return {key: value}
        related = self._mapper.relationships.get(key) if self._mapper is not None else None
        own = {column.name for column in related.local_columns} if related is not None else {f"{key}_id"}
        for reference in tables.references:
            named = set(reference.columns) == own or (
                related is None and tables.tables[reference.to].name == key
            )
            if reference.of == self._table and named:
                copies = tee(value, len(reference.columns)) if isinstance(value, Iterator) else repeat(value)
                return {
                    column: _each(one, partial(_attribute, referred))
                    for column, referred, one in zip(
                        reference.columns, reference.referred, copies, strict=False
                    )
                }
        raise UnknownColumn(f"{self._table} has no column {key!r}; it has {', '.join(columns.keys())}")


def _given(name: str, facts: TableFacts, given: Mapping[str, object], number: int) -> list[Row]:
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


def _each(value: object, change: Callable[[Any], object]) -> object:
    if isinstance(value, Iterator):
        return map(change, value)
    if callable(value):
        return lambda row: change(value(row))
    return change(value)


def _attribute(column: str, of: Any) -> object:  # noqa: ANN401 - a row of either kind
    if of is None or isinstance(of, Mapping):
        return None if of is None else of[column]
    mapper = inspect(type(of))
    return getattr(of, mapper.get_property_by_column(mapper.local_table.columns[column]).key)


def _bound(connection: Connection, column: Column[Any], value: object) -> object:
    """As the model's own type sends it."""
    if isinstance(column.type, TypeDecorator):
        return column.type.process_bind_param(value, connection.dialect)
    enum = isinstance(column.type, EnumType)
    process = cast("Any", column.type).bind_processor(connection.dialect) if enum else None
    return process(value) if process else value


def _draw_again(known: _Knowledge, row: Row, free: Sequence[str], turn: int) -> None:
    kinds = {known.facts.columns[one].type for one in free}
    if turn == 0 and len(free) == _PAIR and len(kinds) == 1:  # most often, one is to be before the other
        row[free[0]], row[free[1]] = row[free[1]], row[free[0]]
        return
    for column in free:
        empty = known.facts.columns[column].nullable and known.random.random() < 1 / 3
        row[column] = None if empty else known.random.choice(known.pools[column])


def _see_unique(name: str, facts: TableFacts, rows: Sequence[Row]) -> None:
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


def _no_value(name: str, facts: TableFacts, column: str) -> str:
    said = " and ".join(
        f"CHECK {one.name} ({one.expression})" for one in facts.checks if one.columns == (column,)
    )
    return (
        f"{name}.{column}: no valid value of type {facts.columns[column].declared}{f' for {said}' if said else ''} was "
        f"found: give one, as in having({column}=…)."
    )


def _by_key(facts: TableFacts, rows: Sequence[Row]) -> tuple[str, str, dict[str, list[str | None]]]:
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


def _name(connection: Connection, table: Table) -> str:
    return connection.dialect.identifier_preparer.format_table(table).replace(":", "\\:")
