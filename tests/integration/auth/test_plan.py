"""A token's database quota holds across servers, although each server has its own lock for its limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text

from freshdb_service.auth.tokens import TokenRegistry, TokenRequest
from freshdb_service.store import databases as store_databases
from freshdb_service.store.audit_log import FRESHDB
from freshdb_service.store.tokens import Quotas
from freshdb_service.templates.registry import RegisterRequest
from tests.integration.installations import Bench, new_installation, replica
from tests.servers import PostgresServer


@pytest.fixture
async def bench(postgres_18: PostgresServer, redis_url: str) -> AsyncIterator[Bench]:
    async with replica(new_installation([postgres_18], redis_url)) as one:
        yield one


async def test_concurrent_plans_never_exceed_the_database_limit(bench: Bench) -> None:
    store = bench.at.store
    issued = await TokenRegistry(store).create(
        TokenRequest("team", frozenset({"build"}), Quotas(max_databases=3)), FRESHDB
    )
    for name in ("here", "there"):
        await bench.templates.register(
            RegisterRequest(name, None, ["select 1"], [], 60), wait_seconds=60, charged_to=issued.token
        )
    await bench.builds.close()  # a template is ready before its pool exists
    installation, there = [one.pool.id for one in await bench.pools.listing()]
    async with store.transaction() as connection:
        await connection.execute(
            text("insert into servers (name, host, port, version) values ('other', '', 0, 180000)")
        )
        await connection.execute(text("update pools set server = 'other' where id = :pool"), {"pool": there})

    async with store.transaction() as connection:
        first = await store_databases.plan(
            connection, installation, 2, enough=2, max_databases=100, claim_seconds=60
        )
        assert len(first) == 2

        async def on_the_other_server() -> int:
            async with store.transaction() as another:
                return len(
                    await store_databases.plan(
                        another, there, 2, enough=2, max_databases=100, claim_seconds=60
                    )
                )

        second = asyncio.create_task(on_the_other_server())
        async with store.statement() as watcher:
            waits = text(
                "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
            )
            while not second.done() and not await watcher.scalar(waits):
                await asyncio.sleep(0.01)
        assert not second.done()
    assert await second == 1
