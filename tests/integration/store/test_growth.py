"""The queries of every loop of every replica do not read all rows."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest
from sqlalchemy import text

from freshdb_service import migrations
from freshdb_service.store import databases, leases, pools
from freshdb_service.store.connection import Connection, Store
from tests.benchmarks.scaling.growth import POOLS, blocks_seen, fill
from tests.runs import run_sync
from tests.servers import PostgresServer
from tests.services import with_database

pytestmark = pytest.mark.xdist_group("growth")  # one large database for the tests of this module

DATABASES = 1_000


@contextmanager
def control_plane(server: PostgresServer, there: int) -> Iterator[str]:
    """A control plane with this number of databases."""
    name = f"grown_{secrets.token_hex(4)}"
    dsn = with_database(server.dsn, name)

    async def made() -> None:
        store = Store(dsn, answer_seconds=60)
        await migrations.upgrade(store.engine)
        await fill(store, there)
        await store.close()

    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute(f"create database {name}")
        run_sync(made())
        yield dsn
        connection.execute(f"drop database {name} with (force)")


@pytest.fixture(scope="module")
def dsn(postgres_18: PostgresServer) -> Iterator[str]:
    with control_plane(postgres_18, DATABASES) as made:
        yield made


@pytest.fixture
async def store(dsn: str) -> AsyncIterator[Store]:
    store = Store(dsn, pool_size=1)
    yield store
    await store.close()


async def size(store: Store, table: str) -> int:
    """Number of blocks of a table."""
    async with store.statement() as connection:
        pages = await connection.execute(
            text("select relpages from pg_class where relname = :table"), {"table": table}
        )
        return int(pages.scalar_one())


async def looked_at(store: Store, statement: Callable[[Connection], Awaitable[object]]) -> int:
    """Blocks that a prepared statement reads."""
    found = []
    for _ in range(2):
        before = await blocks_seen(store)
        async with store.statement() as connection:
            await statement(connection)
        found.append(await blocks_seen(store) - before)
    return found[-1]


async def test_listing_of_a_server_reads_only_its_databases(store: Store) -> None:
    there = await looked_at(store, lambda connection: databases.listing(connection, "s7"))
    assert there < await size(store, "databases") / 4


async def test_load_of_all_servers_reads_the_databases_once(store: Store) -> None:
    assert await looked_at(store, pools.load) < 2 * await size(store, "databases")


async def test_claim_for_dropping_does_not_read_ready_databases(store: Store) -> None:
    async def claim(connection: Connection) -> None:
        await databases.claim_dropping(connection, ["s7"], 16, claim_seconds=5, failed_seconds=3600)

    assert await looked_at(store, claim) < await size(store, "databases") / 2


async def test_pruning_of_leases_does_not_read_recent_ones(store: Store) -> None:
    there = await looked_at(store, lambda connection: leases.prune(connection, 86_400))
    assert there < await size(store, "leases") / 10


async def test_pruning_deletes_all_leases_but_the_live_ones(store: Store) -> None:
    async with store.engine.connect() as connection:  # rolled back at the end
        live = await leases.count_live(connection)
        everything = await connection.scalar(text("select count(*) from leases"))
        assert await leases.prune(connection, 0) == everything - live
        assert await leases.count_live(connection) == live


async def test_listing_returns_every_pool_of_more_than_ten_thousand(postgres_18: PostgresServer) -> None:
    """A missing pool would be dropped by the reconciler, and not be filled by the replenisher."""
    with control_plane(postgres_18, POOLS) as dsn:
        store = Store(dsn, pool_size=1)
        async with store.statement() as connection:
            await connection.execute(
                text(
                    "with made as (insert into templates (id, name, fingerprint, state, server, build_seconds) "
                    "select gen_random_uuid(), 'many' || n, md5(n::text), 'building', 's7', 600 "
                    "from generate_series(1, 10001) n returning id) "
                    "insert into pools (id, template_id, isolation, server, min_ready, max_size, idle_seconds) "
                    "select gen_random_uuid(), id, 'database', 's7', 1, 1, 300 from made"
                )
            )
            assert len(await pools.listing(connection)) == POOLS + 10_001
            assert len(await pools.all_of_server(connection, "s7")) == 1 + 10_001
        await store.close()
