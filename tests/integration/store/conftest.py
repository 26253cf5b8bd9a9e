from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest

from freshdb_service import migrations
from freshdb_service.store.connection import Store
from tests.integration.store.plane import Plane
from tests.runs import run_sync
from tests.servers import PostgresServer
from tests.services import with_database


@pytest.fixture(scope="session")
def control(postgres_18: PostgresServer) -> Iterator[str]:
    """The DSN of a migrated control plane."""
    name = f"plane_{secrets.token_hex(4)}"
    dsn = with_database(postgres_18.dsn, name)

    async def migrate() -> None:
        store = Store(dsn, answer_seconds=60)
        await migrations.upgrade(store.patient)
        await store.close()

    with psycopg.connect(postgres_18.dsn, autocommit=True) as connection:
        connection.execute(f"create database {name}")
        run_sync(migrate())
        yield dsn
        connection.execute(f"drop database {name} with (force)")


@pytest.fixture
def plane(control: str) -> Iterator[Plane]:
    """The same control plane, with empty tables."""
    with psycopg.connect(control, autocommit=True) as connection:
        connection.execute("truncate leases, baselines, databases, pools, templates, servers, trail, tokens")
        yield Plane(connection)


@pytest.fixture
async def store(control: str) -> AsyncIterator[Store]:
    store = Store(control, answer_seconds=60)
    yield store
    await store.close()
