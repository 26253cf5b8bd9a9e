"""Valid rows on demand: realistic and reproducible, with the rows that they refer to, and deleted afterwards.

::

    with Factories(engine, seed=7) as factories:
        payments = factories.of(Payment, traits={"refunded": {"status": "refunded"}})
        payment = payments.create(amount=Decimal(5))                  # and an account, and its customer
        payments.trait("refunded").sharing("customer").create_many(1000)   # all of one customer
    # exactly these rows are deleted

A factory creates instances of a declarative SQLAlchemy model, or dictionaries for a table name. It reads the rules for rows
from the database itself: types, lengths, labels, CHECK constraints, unique constraints and foreign keys. Faker generates
candidates by the names of columns, and common forms of CHECK constraints restrict them. Then PostgreSQL evaluates all CHECK
constraints, of any form, in one query for all candidates. Rows are written by COPY.

- A column with a default, or a nullable reference, is set only if a value is given.
- A row that must be referenced is created, one for each row. `DataFactory.sharing` limits their number.
- The same seed gives the same rows in an equal database, except for sequences.
- One call creates all its rows or none.

Only PostgreSQL is supported, with psycopg, psycopg2 or asyncpg. Exclusion constraints and triggers are not considered. If
they reject a row, the error is PostgreSQL's own.
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
    join_by_key,
    name_of,
)
from freshdb.toolkit.factories.inserts import Row, RowsRefused
from freshdb.toolkit.tables import TableMap

__all__ = ["DataFactory", "Factories", "NoValue", "Row", "RowsRefused", "UnknownColumn"]

T = TypeVar("T")


class Factories:
    """Creates factories for one database, records their rows, and deletes them again.

    Args:
        target: an engine, a connection or a DSN. Async calls need an async one.
        seed: seed of the random values.
        tables: tables of the database, if they were read before. Reading them takes most of the time.
        locale: locale of Faker.

    Raises:
        WrongTarget: the database is not PostgreSQL.
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
        self._builder = RowBuilder(seed, tables, Faker(locale))
        self._created: list[tuple[str, list[Row]]] = []

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
        """Create a factory for a model or a table.

        Args:
            model: a declarative class, or the name of a table (``audit.event`` in another schema).
            traits: sets of values by name, for `DataFactory.trait`.
            **values: values of every row. See `DataFactory.having`.

        Raises:
            WrongTarget: this is not a declarative class.
        """
        if isinstance(model, str):
            return DataFactory[Row](self, model, None, traits or {}, values)
        try:
            mapper: Mapper[T] = inspect(model)
            table = cast("Table", mapper.local_table).key
        except (NoInspectionAvailable, AttributeError):
            raise WrongTarget(
                f"{model!r} is not a declarative model: pass one, or the name of a table"
            ) from None
        return DataFactory[T](self, table, mapper, traits or {}, values)

    def clean(self) -> None:
        """Delete exactly the rows that these factories created and that still exist, referring rows first."""
        if self._created:
            run(cast("Target", self._target), self._clean)
            self._created.clear()

    async def clean_async(self) -> None:
        """Delete rows as `clean` does, on an async target."""
        if self._created:
            await run_async(cast("AsyncTarget", self._target), self._clean)
            self._created.clear()

    def _clean(self, connection: Connection) -> None:
        for name in self._builder.map(connection).delete_order:
            rows = [row for table, created in self._created if table == name for row in created]
            if rows:
                table_values = self._builder.table_values(connection, name)
                join, condition, keys = join_by_key(table_values.catalog, rows)
                table = name_of(connection, table_values.definition)
                connection.execute(text(f"DELETE FROM {table} AS t USING {join} WHERE {condition}"), keys)


class DataFactory(Generic[T]):
    """Creates rows of one table. `Factories.of` returns it.

    A factory is immutable: `having`, `trait` and `sharing` return a new one.
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
        """Set values by the names of columns or of a model's attributes.

        A referenced row is set by the name of the relationship, of the column without ``_id``, or of the other table.
        A function is called with the row so far, as a dictionary of columns. An iterator provides one value for each row.
        """
        return self._with(values={**self._values, **values})

    def trait(self, *names: str) -> DataFactory[T]:
        """Set the values of these traits. The last one wins.

        Raises:
            UnknownColumn: a trait does not exist.
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
        """Let all rows of this factory, and the rows that they refer to, share `among` rows of these tables."""
        return self._with(shares={**self._shares, **dict.fromkeys(tables, among)}, pools=dict(self._pools))

    def create(self, **values: object) -> T:
        """Create one row. See `create_many`."""
        return self.create_many(1, **values)[0]

    def create_many(self, number: int, **values: object) -> list[T]:
        """Create rows, and the rows that they refer to, and return them as they are in the database.

        Raises:
            NoValue: no valid value was found for a column or a CHECK.
            UnknownColumn: a value was given for a column that does not exist.
            RowsRefused: PostgreSQL rejected a given value.
            UnknownTable: a table does not exist.
            NotATable: a table is a view or a partition.
            CircularTables: rows refer to each other in a cycle.
            ToolkitError: a table has no primary key.
        """
        call = self._call()
        target = cast("Target", self._factories._target)
        return self._record(run(target, lambda it: self._create(it, number, values, call)), call)

    async def create_async(self, **values: object) -> T:
        """Create one row as `create` does, on an async target."""
        return (await self.create_many_async(1, **values))[0]

    async def create_many_async(self, number: int, **values: object) -> list[T]:
        """Create rows as `create_many` does, on an async target."""
        call = self._call()
        target = cast("AsyncTarget", self._factories._target)
        return self._record(await run_async(target, lambda it: self._create(it, number, values, call)), call)

    def _with(self, **changes: Any) -> DataFactory[T]:  # noqa: ANN401 - three arguments of the constructor
        now = {"values": self._values, "shares": self._shares, "pools": self._pools}
        return DataFactory[T](self._factories, self._table, self._mapper, self._traits, **(now | changes))

    def _call(self) -> BuilderCall:
        return BuilderCall(self._shares, dict(self._pools), (self._table,))

    def _record(self, created: list[T], call: BuilderCall) -> list[T]:
        """Record the rows of a call that has succeeded."""
        self._factories._created += call.created
        self._pools.update(call.pools)
        return created

    def _create(
        self, connection: Connection, number: int, values: Mapping[str, object], call: BuilderCall
    ) -> list[T]:
        if number < 1:
            raise ValueError(f"number must be at least 1, not {number}")
        builder = self._factories._builder
        tables = builder.map(connection)
        tables.check([self._table, *self._shares])
        unrelated = self._shares.keys() - tables.referred([self._table])
        if unrelated:
            raise UnknownColumn(
                f"{self._table} does not refer to {', '.join(unrelated)}, so these rows cannot be shared"
            )
        given: dict[str, object] = {}
        for key, value in {**self._values, **values}.items():
            given |= self._column_values(connection, tables, key, value)
        rows = builder.build(connection, self._table, number, given, call)
        table_values = builder.table_values(connection, self._table)
        join, condition, keys = join_by_key(table_values.catalog, rows)
        name = name_of(connection, table_values.definition)
        statement = text(f"SELECT t.* FROM {name} AS t JOIN {join} ON {condition} ORDER BY wanted.n")
        if self._mapper is None:
            return [cast("T", dict(row)) for row in connection.execute(statement, keys).mappings()]
        with Session(connection) as session:
            found = session.scalars(select(self._mapper.class_).from_statement(statement), keys).all()
            session.expunge_all()
        return list(found)

    def _column_values(
        self, connection: Connection, tables: TableMap, key: str, value: object
    ) -> dict[str, object]:
        """Return a given value by columns."""
        columns = tables.tables[self._table].columns
        if self._mapper is not None and key in self._mapper.columns:
            column = self._mapper.columns[key]
            return {column.name: _apply(value, lambda one: _bind(connection, column, one))}
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
                    column: _apply(one, partial(_attribute, referred))
                    for column, referred, one in zip(
                        reference.columns, reference.referred, copies, strict=False
                    )
                }
        raise UnknownColumn(f"{self._table} has no column {key!r}; it has {', '.join(columns.keys())}")


def _apply(value: object, change: Callable[[Any], object]) -> object:
    if isinstance(value, Iterator):
        return map(change, value)
    if callable(value):
        return lambda row: change(value(row))
    return change(value)


def _attribute(column: str, of: Any) -> object:  # noqa: ANN401 - a mapping or an instance
    if of is None or isinstance(of, Mapping):
        return None if of is None else of[column]
    mapper = inspect(type(of))
    return getattr(of, mapper.get_property_by_column(mapper.local_table.columns[column]).key)


def _bind(connection: Connection, column: Column[Any], value: object) -> object:
    """Convert a value as the model's own type does."""
    if isinstance(column.type, TypeDecorator):
        return column.type.process_bind_param(value, connection.dialect)
    enum = isinstance(column.type, EnumType)
    process = cast("Any", column.type).bind_processor(connection.dialect) if enum else None
    return process(value) if process else value
