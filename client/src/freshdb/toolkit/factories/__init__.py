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

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import repeat, tee
from typing import Any, Generic, Self, TypeVar, cast, overload

from faker import Faker
from sqlalchemy import Column, Connection, Table, TypeDecorator, inspect, select, text
from sqlalchemy import Enum as EnumType
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.orm import Mapper, Session

from freshdb.toolkit.engines import AsyncTarget, Target, run, run_async
from freshdb.toolkit.errors import WrongTarget
from freshdb.toolkit.factories.builder import (
    BuilderCall,
    NoValue,
    Pools,
    RowBuilder,
    UnknownColumn,
    by_key,
    name_of,
)
from freshdb.toolkit.factories.inserts import Row, RowsRefused
from freshdb.toolkit.tables import TableMap

__all__ = ["DataFactory", "Factories", "NoValue", "Row", "RowsRefused", "UnknownColumn"]

T = TypeVar("T")


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
        self._maker = RowBuilder(seed, tables, Faker(locale))
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
        for name in self._maker.map(connection).delete_order:
            rows = [row for table, made in self._made if table == name for row in made]
            if rows:
                known = self._maker.knowledge(connection, name)
                made, condition, keys = by_key(known.facts, rows)
                table = name_of(connection, known.table)
                connection.execute(text(f"DELETE FROM {table} AS t USING {made} WHERE {condition}"), keys)


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

    def _call(self) -> BuilderCall:
        return BuilderCall(self._shares, dict(self._pools), (self._table,))

    def _done(self, made: list[T], call: BuilderCall) -> list[T]:
        """Only now that it is in the database."""
        self._factories._made += call.made
        self._pools.update(call.pools)
        return made

    def _make(
        self, connection: Connection, number: int, values: Mapping[str, object], call: BuilderCall
    ) -> list[T]:
        if number < 1:
            raise ValueError(f"number: at least 1 row can be made, not {number}")
        maker = self._factories._maker
        tables = maker.map(connection)
        tables.check([self._table, *self._shares])
        strangers = self._shares.keys() - tables.referred([self._table])
        if strangers:
            raise UnknownColumn(
                f"{self._table} does not refer to {', '.join(strangers)}, so nothing of it can be shared"
            )
        given: dict[str, object] = {}
        for key, value in {**self._values, **values}.items():
            given |= self._columns(connection, tables, key, value)
        rows = maker.make(connection, self._table, number, given, call)
        known = maker.knowledge(connection, self._table)
        made, condition, keys = by_key(known.facts, rows)
        statement = text(
            f"SELECT t.* FROM {name_of(connection, known.table)} AS t JOIN {made} ON {condition} ORDER BY made.n"
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
