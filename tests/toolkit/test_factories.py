"""Factories: valid rows with the rows that they refer to, deleted afterwards."""

from __future__ import annotations

import asyncio
import enum
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from itertools import count, cycle
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, ForeignKey, NullPool, create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from freshdb.toolkit.errors import CircularTables, NotATable, ToolkitError, UnknownTable, WrongTarget
from freshdb.toolkit.factories import DataFactory, Factories, NoValue, RowsRefused, UnknownColumn
from tests.toolkit.conftest import Databases

PAGE = Path(__file__).parents[2] / "docs" / "toolkit-factories.md"
EXAMPLE = re.compile(
    r"<!-- example: file (\w+)\.sql -->\n```sql\n(.*?)```\n\n<!-- example: file \1\.py -->\n```python\n(.*?)```",
    re.DOTALL,
)
EXAMPLES = {name: (sql, code) for name, sql, code in EXAMPLE.findall(PAGE.read_text())}

SHAPES = {
    "above": "integer CHECK (it > 41)",
    "between": "smallint CHECK (it BETWEEN 7 AND 9)",
    "turned round": "bigint CHECK (100 < it AND 200 >= it)",
    "decimals": "numeric(4, 2) CHECK (it >= 0.5 AND it < 1)",
    "above, in a narrow type": "numeric(4, 2) CHECK (it > 0)",
    "negative": "real CHECK (it < -3)",
    "a list of texts": "varchar(10) CHECK (it IN ('new', 'it''s paid'))",
    "a list of numbers": "integer CHECK (it IN (2, 3, 5))",
    "one value": "text CHECK (it = 'only')",
    "a length": "text CHECK (char_length(it) = 8)",
    "lengths": "varchar(30) CHECK (length(it) >= 12 AND length(it) < 15)",
    "a regular expression": "text CHECK (it ~ '^[A-Z]{2}[0-9]{4,6}$')",
    "a class of characters": r"text CHECK (it ~ '^\d{3}:\w+$')",
    "a pattern": "text CHECK (it LIKE '%@%')",
    "lower case": "text CHECK (it = lower(it))",
    "arithmetic": "integer CHECK (it % 3 = 0)",
    "dates": "date CHECK (it >= DATE '2020-02-01' AND it < DATE '2020-03-01')",
    "either": "integer CHECK (it < 5 OR it > 900)",
    "a domain": "positive",
    "the same domain again": "positive",
    "a domain over a list": "grade",
    "a function": "jsonb CHECK (jsonb_typeof(it) = 'object')",
    "an array": "text[] CHECK (cardinality(it) > 1)",
    "an enum": "mood CHECK (it <> 'sad')",
    "no more than fits": "varchar(3)",
}
TYPES = [
    "boolean", "smallint", "integer", "bigint", "numeric", "numeric(3,3)", "numeric(20)", "real", "double precision",
    "money", "text", "varchar", "char(5)", "uuid", "date", "time", "timetz", "timestamp", "timestamptz(3)", "interval",
    "json", "jsonb", "bytea", "inet", "cidr", "integer[]", "text[]", "mood", "mood[]", "positive",
]  # fmt: skip
KINDS = """
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE DOMAIN positive AS numeric(12, 2) CHECK (VALUE > 0);
CREATE DOMAIN grade AS text CHECK (VALUE IN ('a', 'b'));
"""
SHOP = """
CREATE SCHEMA audit;
CREATE TABLE country (code char(2) PRIMARY KEY);
CREATE TABLE customer (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, email text NOT NULL, country char(2) NOT NULL REFERENCES country,
    invited_by int REFERENCES customer, vip boolean NOT NULL DEFAULT false);
CREATE UNIQUE INDEX ON customer (lower(email));
CREATE TABLE purchase (
    id serial PRIMARY KEY, customer_id int NOT NULL REFERENCES customer, country char(2) NOT NULL REFERENCES country,
    placed_on date NOT NULL, shipped_on date NOT NULL, note text, CHECK (placed_on <= shipped_on));
CREATE TABLE profile (customer_id int PRIMARY KEY REFERENCES customer, nick_name varchar(8) NOT NULL UNIQUE);
CREATE TABLE flag (id serial PRIMARY KEY, up boolean NOT NULL UNIQUE);
CREATE TABLE folder (id serial PRIMARY KEY, parent_id int NOT NULL REFERENCES folder);
CREATE TABLE egg (id serial PRIMARY KEY, hen_id int NOT NULL);
CREATE TABLE hen (id serial PRIMARY KEY, egg_id int NOT NULL REFERENCES egg);
ALTER TABLE egg ADD FOREIGN KEY (hen_id) REFERENCES hen;
CREATE TABLE never (id serial PRIMARY KEY, it int NOT NULL CHECK (it > 5 AND it < 3));
CREATE TABLE total (id serial PRIMARY KEY, a int NOT NULL, b int NOT NULL, CHECK (a * 1000003 = b * 7));
CREATE TABLE keyless (it int);
CREATE VIEW emails AS SELECT email FROM customer;
CREATE TABLE audit.event (
    at timestamptz NOT NULL, customer_id int NOT NULL REFERENCES customer, id bigserial, PRIMARY KEY (at, id))
    PARTITION BY RANGE (at);
CREATE TABLE audit.event_2020 PARTITION OF audit.event FOR VALUES FROM ('2020-01-01') TO ('2020-07-01');
CREATE TABLE doubled (
    id serial PRIMARY KEY, it int NOT NULL, twice int GENERATED ALWAYS AS (it * 2) STORED, CHECK (twice > it));
"""


class Base(DeclarativeBase):
    pass


class Mood(enum.Enum):
    SAD = "sad"
    OK = "ok"


class Author(Base):
    __tablename__ = "author"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    mood: Mapped[Mood]


class Book(Base):
    __tablename__ = "book"
    id: Mapped[int] = mapped_column(primary_key=True)
    heading: Mapped[str] = mapped_column("title")
    writer_id: Mapped[int] = mapped_column("written_by", ForeignKey("author.id"))
    writer: Mapped[Author] = relationship()


@pytest.fixture
def engine_on(databases: Databases) -> Iterator[Callable[..., Engine]]:
    engines = []

    def engine_on(sql: str, driver: str = "psycopg") -> Engine:
        engines.append(create_engine(databases.clone(sql).replace("postgresql", f"postgresql+{driver}", 1)))
        return engines[-1]

    yield engine_on
    for engine in engines:
        engine.dispose()


@pytest.fixture
def shop(engine_on: Callable[..., Engine]) -> Engine:
    return engine_on(SHOP)


def _count(engine: Engine, table: str) -> int:
    with engine.connect() as connection:
        return int(connection.scalar(text(f"SELECT count(*) FROM {table}")) or 0)


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_of_the_page_leave_no_rows(name: str, engine_on: Callable[..., Engine]) -> None:
    sql, code = EXAMPLES[name]
    engine = engine_on(sql)
    with Factories(engine, seed=7) as factories:
        exec(compile(code, f"{PAGE.name}: {name}", "exec"), {"factories": factories, "engine": engine})  # noqa: S102
        assert factories._created
    for table in re.findall(r"CREATE TABLE (\w+)", sql):
        assert _count(engine, table) == 0


def test_page_has_examples_of_three_domains() -> None:
    assert set(EXAMPLES) == {"payments", "inventory", "allocations"}


def test_every_form_of_check_is_satisfied(engine_on: Callable[..., Engine]) -> None:
    columns = [
        re.sub(r"^|\bit\b", f"c{at} ", shape) + " NOT NULL" for at, shape in enumerate(SHAPES.values())
    ]
    engine = engine_on(KINDS + f"CREATE TABLE shapes (id serial PRIMARY KEY, {', '.join(columns)})")
    with Factories(engine) as factories:
        made = factories.of("shapes").create_many(200)  # PostgreSQL rejects invalid rows
    for at, shape in enumerate(SHAPES):
        some = {str(row[f"c{at}"]) for row in made}
        assert len(some) > 1 or shape == "one value", shape


def test_every_type_has_values_also_in_unique_columns(engine_on: Callable[..., Engine]) -> None:
    comparable = [kind for kind in TYPES if kind not in {"json", "boolean", "mood", "numeric(3,3)"}]
    kinds = ", ".join(f"c{at} {kind} NOT NULL" for at, kind in enumerate(TYPES))
    alone = ", ".join(f"c{at} {kind} NOT NULL UNIQUE" for at, kind in enumerate(comparable))
    engine = engine_on(
        f"{KINDS}; CREATE TABLE kinds (id serial PRIMARY KEY, {kinds}); CREATE TABLE alone (id serial PRIMARY KEY, {alone})"
    )
    with Factories(engine) as factories:
        assert len(factories.of("kinds").create_many(50)) == 50
        assert len(factories.of("alone").create_many(12)) == 12
        assert len(factories.of("alone").create_many(12)) == 12


def test_given_values_are_stored_unchanged(engine_on: Callable[..., Engine]) -> None:
    given: dict[str, Any] = {
        "lasts": timedelta(microseconds=1),
        "past": timedelta(days=-1, microseconds=1),
        "many": [timedelta(seconds=1), timedelta(microseconds=2)],
        "message": "tab\t, line\nend, \\N, \\.",
        "words": ["a,b", 'a"b', "{", "", "NULL", "\\"],
        "raw": b"\x00\xff\\",
        "tree": {"a": ["\\", "\n", None]},
        "tiny": Decimal("1E-7"),
        "real": 1e-300,
    }
    kinds = ["interval", "interval", "interval[]", "text", "text[]", "bytea", "jsonb", "numeric", "float8"]
    columns = ", ".join(f"{name} {kind}" for name, kind in zip(given, kinds, strict=True))
    engine = engine_on(f"CREATE TABLE given (id serial PRIMARY KEY, {columns})")
    with Factories(engine) as factories:
        made = factories.of("given").create(**given)
        assert {name: made[name] for name in given} == given


def test_referenced_rows_are_created_and_can_be_shared_through_other_tables(shop: Engine) -> None:
    with Factories(shop) as factories:
        purchases = factories.of("purchase")
        assert len({row["customer_id"] for row in purchases.create_many(5)}) == 5
        assert _count(shop, "customer") == 5
        assert _count(shop, "country") == 10  # one for each customer and each purchase

        shared = purchases.sharing("customer", "country")
        assert len({row["customer_id"] for row in [*shared.create_many(5), shared.create()]}) == 1
        assert (_count(shop, "customer"), _count(shop, "country")) == (6, 11)

        spread = purchases.sharing("customer", among=3).sharing("country", among=2).create_many(6)
        assert len({(row["customer_id"], row["country"]) for row in spread}) == 6
    assert _count(shop, "customer") == _count(shop, "country") == 0


def test_nullable_reference_is_null_unless_given(shop: Engine) -> None:
    with Factories(shop) as factories:
        customers = factories.of("customer")
        first = customers.create()
        assert first["invited_by"] is None
        assert first["vip"] is False
        assert customers.create(invited_by=first["id"])["invited_by"] == first["id"]


def test_referenced_rows_are_given_by_name_or_iterator(shop: Engine) -> None:
    with Factories(shop) as factories:
        two = factories.of("customer").create_many(2)
        purchases = factories.of("purchase").create_many(4, customer=cycle(two), country=two[0]["country"])
        assert [row["customer_id"] for row in purchases] == [two[0]["id"], two[1]["id"]] * 2


def test_checks_over_several_columns_are_satisfied(shop: Engine) -> None:
    with Factories(shop) as factories:
        made = factories.of("purchase").sharing("customer", "country").create_many(300)
        assert len({row["placed_on"] for row in made}) > 20


def test_unique_values_differ_from_existing_rows(shop: Engine) -> None:
    with Factories(shop, seed=1) as one, Factories(shop, seed=1) as other:
        one.of("profile").create_many(40)
        made = other.of("profile").create_many(40)  # they would be equal without the existing rows
        assert _count(shop, "profile") == 80
        assert all(len(row["nick_name"]) <= 8 for row in made)


def test_required_self_reference_refers_to_the_row_itself(shop: Engine) -> None:
    with Factories(shop) as factories:
        folder = factories.of("folder").create()
        assert folder["parent_id"] == folder["id"]
        assert factories.of("folder").create(parent=folder)["parent_id"] == folder["id"]


def test_partitions_other_schemas_and_generated_columns_are_supported(shop: Engine) -> None:
    with Factories(shop) as factories:
        events = factories.of("audit.event").create_many(50)
        assert {row["at"].year for row in events} == {2020}
        assert factories.of("doubled").create(it=4)["twice"] == 8
    assert _count(shop, "audit.event") == 0


def test_equal_seeds_give_equal_rows_and_other_seeds_do_not(engine_on: Callable[..., Engine]) -> None:
    def made(seed: int) -> list[dict[str, Any]]:
        with Factories(engine_on(SHOP), seed=seed) as factories:
            return factories.of("purchase").create_many(20)

    first = made(1)
    assert made(1) == first
    assert made(2) != first


def test_values_can_be_constants_iterators_functions_and_traits(shop: Engine) -> None:
    with Factories(shop) as factories:
        purchases = factories.of(
            "purchase",
            note="a",
            traits={"urgent": {"note": "now"}, "late": {"note": lambda row: f"placed {row['placed_on']}"}},
        ).sharing("customer")
        numbered = purchases.create_many(2, note=(f"{at}" for at in count()))
        assert [row["note"] for row in numbered] == ["0", "1"]
        assert purchases.create()["note"] == "a"
        assert purchases.trait("late", "urgent").create()["note"] == "now"
        late = purchases.trait("urgent", "late").create()
        assert late["note"] == f"placed {late['placed_on']}"
        assert purchases.having(note=None).create()["note"] is None
        with pytest.raises(NoValue, match="the iterator for note has ended before 3 rows had a value"):
            purchases.create_many(3, note=iter("ab"))


def test_only_own_rows_are_deleted_also_after_an_error(shop: Engine) -> None:
    with Factories(shop) as others:
        keep = others.of("customer").create()
        with suppress(ZeroDivisionError), Factories(shop) as factories:
            factories.of("purchase").create(customer=keep)
            assert _count(shop, "purchase") // 0
        assert (_count(shop, "customer"), _count(shop, "purchase")) == (1, 0)


def test_failed_call_creates_no_rows(shop: Engine) -> None:
    with Factories(shop) as factories:
        with pytest.raises(
            NoValue, match=r"profile: nick_name must be unique, and 3 rows have 1 different values"
        ):
            factories.of("profile").create_many(3, nick_name="same")
        with pytest.raises(RowsRefused, match=r"purchase: .*foreign key"):
            factories.of("purchase").create(customer_id=-1)
        assert _count(shop, "customer") == _count(shop, "country") == 0
        assert factories._created == []


@pytest.mark.parametrize(
    ("attempt", "error", "message"),
    [
        (lambda it: it.of("costumer").create(), UnknownTable, "customer"),
        (lambda it: it.of("emails").create(), NotATable, "emails is a view"),
        (lambda it: it.of("customer").create(mail="x"), UnknownColumn, "customer has no column 'mail'; it has id, email"),
        (lambda it: it.of("customer").trait("vip"), UnknownColumn, "customer has no trait 'vip'; it has none"),
        (lambda it: it.of("customer").sharing("purchase").create(), UnknownColumn, "does not refer to purchase"),
        (lambda it: it.of("hen").create(), CircularTables, "hen → egg → hen: give hen_id of egg a value"),
        (lambda it: it.of("flag").create_many(3), NoValue, r"flag.up: .* It is unique, and 3 different values are needed"),
        (lambda it: it.of("never").create(), NoValue, r"never.it: no valid value of type integer for CHECK never_it_check"),
        (lambda it: it.of("total").create(), NoValue, r"satisfies CHECK total_check .* having\(b=lambda row: …\)"),
        (lambda it: it.of("keyless").create(), ToolkitError, "keyless has no primary key"),
        (lambda it: it.of("customer").create_many(0), ValueError, "number must be at least 1, not 0"),
        (lambda it: it.of(int), WrongTarget, "not a declarative model"),
    ],
)  # fmt: skip
def test_error_names_the_mistake_and_the_remedy(
    attempt: Callable[[Factories], object], error: type[Exception], message: str, shop: Engine
) -> None:
    with Factories(shop) as factories:
        with pytest.raises(error, match=message):
            attempt(factories)
        assert _count(shop, "country") == 0


def test_remedy_of_the_check_error_works(shop: Engine) -> None:
    with Factories(shop) as factories:
        factories.of("total", a=7, b=lambda row: row["a"] * 1000003 // 7).create_many(3)


def test_model_factory_returns_instances_with_the_models_names_and_types(
    engine_on: Callable[..., Engine],
) -> None:
    engine = engine_on("")
    Base.metadata.create_all(engine)
    with Factories(engine) as factories:
        books: DataFactory[Book] = factories.of(Book, heading="Emma")
        author = factories.of(Author).create(mood=Mood.OK)
        assert author.mood is Mood.OK
        book = books.create(writer=author)
        assert (book.heading, book.writer_id) == ("Emma", author.id)
        with Session(engine) as session:
            session.add(book)
            assert book.writer.name == author.name
        assert len({one.writer_id for one in books.create_many(3, writer_id=author.id)}) == 1
        assert isinstance(books.create().writer_id, int)
    assert _count(engine, "book") == _count(engine, "author") == 0


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_async_engines_have_the_same_results(driver: str, databases: Databases) -> None:
    async def make() -> None:
        engine = create_async_engine(databases.clone(SHOP).replace("postgresql", f"postgresql+{driver}", 1))
        async with Factories(engine) as factories:
            purchases = factories.of("purchase").sharing("customer")
            assert len(await purchases.create_many_async(30)) == 30
            event = await factories.of("audit.event").create_async()
            assert event["at"].year == 2020
        async with engine.connect() as connection:
            assert await connection.scalar(text("SELECT count(*) FROM customer")) == 0
        await engine.dispose()

    asyncio.run(make())


def test_factory_uses_psycopg2_in_a_transaction_of_the_caller(engine_on: Callable[..., Engine]) -> None:
    engine = engine_on(SHOP, "psycopg2")
    with engine.connect() as connection, Factories(connection) as factories:
        awkward = "tab\t, line\n, back\\slash, \\N"
        made = factories.of("purchase").create(note=awkward)
        assert made["note"] == awkward
        connection.execute(text("SELECT 1"))
        factories.of("purchase").create()
        connection.rollback()
    assert _count(engine, "customer") == 0


def test_sqlite_is_refused() -> None:
    with pytest.raises(WrongTarget, match="sqlite"):
        Factories(create_engine("sqlite://", poolclass=NullPool)).of("customer").create()
