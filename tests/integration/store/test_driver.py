from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import asyncpg
import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from freshdb_service.errors import BackendUnavailable
from freshdb_service.postgres.server.connections import translate_outages
from freshdb_service.store.connection import ConstraintViolated, Store
from tests.servers import PostgresServer
from tests.services import with_database


@pytest.fixture
async def store(postgres_18: PostgresServer) -> AsyncIterator[Store]:
    store = Store(postgres_18.dsn)
    yield store
    await store.close()


def raising(sqlstate: str) -> str:
    return f"do $$ begin raise exception 'no' using errcode = '{sqlstate}'; end $$"


@pytest.mark.parametrize("sqlstate", ["57P01", "57P03", "53100", "53200"])
async def test_refusal_on_an_open_connection_is_unavailable(store: Store, sqlstate: str) -> None:
    with pytest.raises(BackendUnavailable, match="control plane"):
        async with store.driver() as driver:
            await driver.execute(raising(sqlstate))
    await store.ping()


async def test_violated_constraint_is_not_unavailable(store: Store) -> None:
    with pytest.raises(ConstraintViolated):
        async with store.driver() as driver:
            await driver.execute(raising("23505"))


async def test_invalid_statement_is_not_unavailable(store: Store) -> None:
    with pytest.raises(Exception, match="syntax error"):
        async with store.driver() as driver:
            await driver.execute("selec 1")


@pytest.fixture
def closed(postgres_18: PostgresServer) -> Iterator[str]:
    """A database that refuses connections, as every database does while its server starts."""
    name = f"closed_{secrets.token_hex(4)}"
    with psycopg.connect(postgres_18.dsn, autocommit=True) as superuser:
        superuser.execute(f"create database {name} allow_connections false")
        yield with_database(postgres_18.dsn, name)
        superuser.execute(f"drop database {name}")


async def test_refused_connection_is_unavailable(closed: str) -> None:
    store = Store(closed)
    with pytest.raises(BackendUnavailable, match="not currently accepting connections"):
        async with store.driver():
            pass
    with pytest.raises(BackendUnavailable, match="not currently accepting connections"):
        async with store.statement():
            pass
    with pytest.raises(BackendUnavailable, match="not currently accepting connections"):
        async with store.transaction():
            pass
    await store.close()


@pytest.fixture
async def cut(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every connection is cut as soon as a statement is prepared, as when a server fails."""
    await store.ping()
    prepare: Callable[..., Awaitable[object]] = asyncpg.Connection._get_statement  # type: ignore[attr-defined]

    async def prepare_and_lose(
        self: asyncpg.Connection[asyncpg.Record], *args: object, **kwargs: object
    ) -> object:
        statement = await prepare(self, *args, **kwargs)
        self.terminate()
        return statement

    monkeypatch.setattr(asyncpg.Connection, "_get_statement", prepare_and_lose)


@pytest.mark.usefixtures("cut")
@pytest.mark.parametrize("visit", [Store.statement, Store.transaction])
async def test_connection_cut_within_a_statement_is_unavailable(
    store: Store, visit: Callable[[Store], AbstractAsyncContextManager[AsyncConnection]]
) -> None:
    with pytest.raises(BackendUnavailable, match="control plane"):
        async with visit(store) as connection:
            # asyncpg first asks the server for the type
            await connection.execute(text("select null::information_schema.sql_identifier[]"))


@pytest.mark.usefixtures("cut")
async def test_connection_cut_within_a_statement_of_the_driver_is_unavailable(
    store: Store, postgres_18: PostgresServer
) -> None:
    with pytest.raises(BackendUnavailable, match="control plane"):
        async with store.driver() as driver:
            await driver.fetchval("select 1")
    connection = await asyncpg.connect(postgres_18.dsn)
    with pytest.raises(BackendUnavailable, match="the PostgreSQL server one"), translate_outages("one"):
        await connection.fetchval("select 1")


async def test_missing_attribute_is_not_unavailable(store: Store) -> None:
    nothing: Any = None
    with pytest.raises(AttributeError):
        async with store.statement():
            nothing.bind_execute()
    with pytest.raises(AttributeError), translate_outages("one"):
        nothing.bind_execute()


async def test_more_callers_than_connections_return_every_connection(postgres_18: PostgresServer) -> None:
    store = Store(postgres_18.dsn, pool_size=2)

    async def visit() -> int:
        async with store.driver() as driver:
            return int(await driver.fetchval("select pg_backend_pid()"))

    pids = await asyncio.gather(*(visit() for _ in range(20)))
    assert len(set(pids)) <= 2
    assert store.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    await store.close()
