from __future__ import annotations

from itertools import permutations

import pytest
from sqlalchemy import (
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    MetaData,
    Table,
    create_engine,
    text,
)
from sqlalchemy.ext.asyncio import create_async_engine

from freshdb.toolkit.errors import NotATable, UnknownTable, WrongTarget
from freshdb.toolkit.tables import Reference, TableMap
from tests.toolkit.conftest import Databases

COMPANY = """
CREATE TABLE line (item_id int NOT NULL, order_id int NOT NULL, number int, PRIMARY KEY (order_id, number));
CREATE TABLE customer (id int PRIMARY KEY, name text);
CREATE TABLE "Order" (id int PRIMARY KEY, customer_id int NOT NULL REFERENCES customer ON DELETE CASCADE);
CREATE TABLE item (id int PRIMARY KEY, part_of int REFERENCES item);
ALTER TABLE line ADD FOREIGN KEY (order_id) REFERENCES "Order", ADD FOREIGN KEY (item_id) REFERENCES item;
CREATE TABLE department (id int PRIMARY KEY, head_id int NOT NULL);
CREATE TABLE employee (id int PRIMARY KEY, department_id int REFERENCES department);
ALTER TABLE department ADD FOREIGN KEY (head_id) REFERENCES employee;
CREATE TABLE hen (id int PRIMARY KEY, egg_id int NOT NULL);
CREATE TABLE egg (id int PRIMARY KEY, hen_id int NOT NULL REFERENCES hen);
ALTER TABLE hen ADD FOREIGN KEY (egg_id) REFERENCES egg;
CREATE TABLE event (at date NOT NULL, customer_id int REFERENCES customer) PARTITION BY RANGE (at);
CREATE TABLE event_2026 PARTITION OF event FOR VALUES FROM ('2026-01-01') TO ('2027-01-01') PARTITION BY RANGE (at);
CREATE TABLE event_may PARTITION OF event_2026 FOR VALUES FROM ('2026-05-01') TO ('2026-06-01');
CREATE SCHEMA audit;
CREATE TABLE audit.entry (id int PRIMARY KEY, order_id int NOT NULL REFERENCES "Order" DEFERRABLE);
CREATE VIEW big AS SELECT * FROM item;
CREATE MATERIALIZED VIEW bigger AS SELECT * FROM item;
"""


@pytest.fixture(scope="module")
def dsn(databases: Databases) -> str:
    return databases.clone(COMPANY)


@pytest.fixture(scope="module")
def tables(dsn: str) -> TableMap:
    return TableMap.read(dsn)


def test_referenced_tables_come_first(tables: TableMap) -> None:
    position = {name: at for at, name in enumerate(tables.insert_order)}
    assert position.keys() == {
        *(
            "customer",
            "Order",
            "item",
            "line",
            "department",
            "employee",
            "hen",
            "egg",
            "event",
            "audit.entry",
        ),
    }
    for one in tables.references:
        if one.of != one.to and {"hen", "department"}.isdisjoint({one.of, one.to}):
            assert position[one.to] < position[one.of]
    assert position["employee"] < position["department"], "the department of an employee is nullable"
    assert tables.delete_order == tables.insert_order[::-1]


def test_cycles_and_unbreakable_cycles_are_found(tables: TableMap) -> None:
    assert tables.cycles == (("department", "employee"), ("egg", "hen"))
    assert tables.unbreakable == (("egg", "hen"),)
    assert tables.self_references == ("item",)


def test_partitions_belong_to_their_partitioned_table(tables: TableMap) -> None:
    assert tables.partitions == {"event_2026": "event", "event_may": "event"}
    assert [one.to for one in tables.references if one.of == "event"] == ["customer"]
    with pytest.raises(NotATable, match="event_may is a partition: name its partitioned table, event"):
        tables.check(["event_may"])


def test_references_have_on_delete_and_deferrable(tables: TableMap) -> None:
    [owned] = [one for one in tables.references if one.of == "Order"]
    assert owned == Reference("Order", "customer", ("customer_id",), ("id",), False, False, "CASCADE")
    [entry] = [one for one in tables.references if one.of == "audit.entry"]
    assert (entry.to, entry.loose, entry.deferrable) == ("Order", True, True)


def test_referring_and_referred_tables_include_indirect_ones(tables: TableMap) -> None:
    assert tables.referring(["customer"]) == {"Order", "line", "audit.entry", "event"}
    assert tables.referred(["line"]) == {"Order", "customer", "item"}
    assert tables.referring(["item"]) == {"line"}


def test_unknown_table_and_view_are_errors(tables: TableMap) -> None:
    tables.check(["Order", "audit.entry"])
    with pytest.raises(UnknownTable, match="no table 'custmer'; there are customer"):
        tables.check(["custmer"])
    for view in ("big", "bigger"):
        with pytest.raises(NotATable, match=f"{view} is a view"):
            tables.check([view])


def test_mermaid_diagram_has_tables_and_references(tables: TableMap) -> None:
    drawing = tables.mermaid().splitlines()
    assert drawing[0] == "flowchart LR"
    number = {line.split('"')[1]: line.split("[")[0].strip() for line in drawing if "[" in line}
    assert f'  {number["Order"]} -->|"customer_id"| {number["customer"]}' in drawing
    assert f'  {number["item"]} -.->|"part_of"| {number["item"]}' in drawing


async def test_every_type_of_target_gives_the_same_map(dsn: str, tables: TableMap) -> None:
    engine = create_engine(dsn.replace("postgresql", "postgresql+psycopg", 1))
    with engine.connect() as connection:
        found = [TableMap.read(engine), TableMap.read(connection), await TableMap.read_async(dsn)]
    engine.dispose()
    for driver in ("asyncpg", "psycopg"):
        async_engine = create_async_engine(dsn.replace("postgresql", f"postgresql+{driver}", 1))
        async with async_engine.connect() as async_connection:
            found += [await TableMap.read_async(async_engine), await TableMap.read_async(async_connection)]
        await async_engine.dispose()
    for one in found:
        assert (one.insert_order, one.references) == (tables.insert_order, tables.references)


def test_search_path_with_several_schemas_is_supported(dsn: str, tables: TableMap) -> None:
    found = TableMap.read(f"{dsn}?options=-csearch_path%3Daudit,public")
    assert [(one.of, one.to) for one in found.references if one.of == "entry"] == [("entry", "Order")]
    assert found.tables.keys() - tables.tables.keys() == {"entry"}
    assert len(found.tables) == len(tables.tables)


def test_map_is_read_from_sqlite_and_models(tmp_path: object) -> None:
    metadata = MetaData()
    Table("child", metadata, Column("id", Integer, primary_key=True), Column("of", ForeignKey("parent.id")))
    Table("parent", metadata, Column("id", Integer, primary_key=True))
    engine = create_engine(f"sqlite:///{tmp_path}/some.db")
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(text("CREATE VIEW parents AS SELECT * FROM parent"))
    for found in (TableMap.read(engine), TableMap.of_metadata(metadata)):
        assert found.insert_order == ("parent", "child")
    with pytest.raises(NotATable):
        TableMap.read(engine).check(["parents"])
    engine.dispose()


def test_any_order_of_declaration_gives_a_valid_insert_order() -> None:
    for names in permutations("abcd"):
        metadata = MetaData()
        for name, after in zip(names, [None, *names], strict=False):
            table = Table(name, metadata, Column("id", Integer, primary_key=True), Column("up", Integer))
            if after is not None:
                table.append_constraint(ForeignKeyConstraint(["up"], [f"{after}.id"]))
        assert TableMap.of_metadata(metadata).insert_order == names


async def test_invalid_target_is_refused_without_showing_its_password(dsn: str) -> None:
    with pytest.raises(WrongTarget, match="expected an Engine, a Connection or a DSN, not builtins"):
        TableMap.read(5)  # type: ignore[arg-type]
    with pytest.raises(WrongTarget, match=r"postgresql\+asyncpg is an async driver"):
        TableMap.read(dsn.replace("postgresql", "postgresql+asyncpg", 1))
    with pytest.raises(WrongTarget, match="pysqlite is a blocking driver"):
        await TableMap.read_async("sqlite+pysqlite:///:memory:")
    with pytest.raises(WrongTarget, match="not a DSN") as raised:
        TableMap.read("user:secret@host")
    assert "secret" not in str(raised.value)
