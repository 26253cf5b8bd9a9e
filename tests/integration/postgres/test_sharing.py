"""A schema is inspected without reading the other schemas of its database."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from typing import TypeAlias

import asyncpg
import pytest

from freshdb_reset import Catalogs
from freshdb_reset.baseline import MARK_OF_SCHEMA, OIDS
from freshdb_service.postgres.server.connections import SETTINGS
from freshdb_service.postgres.server.session_cache import SETTINGS as SESSION_SETTINGS
from tests.servers import PostgresServer
from tests.services import with_database

OTHERS = 1_500
SEARCHED = {"pg_class", "pg_constraint", "pg_proc", "pg_type"}
"""Catalogs without an index on the schema of their rows."""

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@pytest.fixture
async def shared(postgres_18: PostgresServer) -> AsyncIterator[Connection]:
    """A connection to a database with many schemas."""
    name = f"shared_{secrets.token_hex(4)}"
    around = await asyncpg.connect(postgres_18.dsn)
    await around.execute(f"CREATE DATABASE {name}")
    connection = await asyncpg.connect(
        with_database(postgres_18.dsn, name), server_settings=SETTINGS | SESSION_SETTINGS
    )
    await connection.execute(
        f"""
        DO $$ BEGIN FOR number IN 1..{OTHERS} LOOP
            EXECUTE format('CREATE SCHEMA s%s; CREATE TABLE s%1$s.a (id bigserial PRIMARY KEY, name text NOT NULL); '
                           'CREATE TABLE s%1$s.b (id bigint REFERENCES s%1$s.a)', number);
        END LOOP; END $$
        """
    )
    yield connection
    await connection.close()
    await around.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await around.close()


async def read_whole(connection: Connection, query: str, arguments: str) -> set[str]:
    """Return the large catalogs that a query reads completely."""
    await connection.execute(f"PREPARE asked AS {query}")
    plan: str = await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE asked ({arguments})")
    await connection.execute("DEALLOCATE asked")
    large = {
        row["relname"]
        for row in await connection.fetch(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'pg_catalog'::regnamespace "
            "AND pg_relation_size(oid) > 128 * 1024"
        )
    }

    def read(node: object) -> set[str]:
        if isinstance(node, list):
            return set().union(*map(read, node))
        if not isinstance(node, dict):
            return set()
        found = {str(node["Relation Name"])} if node.get("Node Type") == "Seq Scan" else set()
        return found.union(*map(read, node.values()))

    return read(json.loads(plan)) & large


async def test_definitions_of_schema_are_read_by_index(shared: Connection) -> None:
    catalogs = await Catalogs.of(shared, schema=True)
    asked: list[tuple[str, tuple[object, ...]]] = []

    class Asking:
        async def fetch(self, query: str, *args: object) -> list[object]:
            asked.append((query, args))
            return []

        async def fetchval(self, query: str, *args: object) -> object:
            raise AssertionError((query, args))

    scope = await shared.fetchrow("SELECT 's7'::regnamespace::oid, current_user::regrole::oid")
    assert scope is not None
    await catalogs.extents(Asking(), ["s7"], list(scope))
    await catalogs.changes(Asking(), 1000, list(scope), catalogs.names)
    for query, args in asked:
        arguments = ", ".join(f"'{one}'" for one in args)
        assert await read_whole(shared, query, arguments) <= SEARCHED
    large = await shared.fetchval("SELECT pg_relation_size('pg_depend')")
    assert large > 128 * 1024  # it is large enough to count


async def test_catalog_writes_are_summed_by_index(shared: Connection) -> None:
    query = f"WITH me AS ({OIDS}) SELECT {MARK_OF_SCHEMA} FROM me"
    assert await read_whole(shared, query, "current_user, 's7'") == set()
