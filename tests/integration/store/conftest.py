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


@pytest.fixture(scope="session")
def superuser(control: str) -> Iterator[psycopg.Connection[object]]:
    with psycopg.connect(control, autocommit=True) as connection:
        yield connection


@pytest.fixture
def plane(superuser: psycopg.Connection[object]) -> Plane:
    """The same control plane, with empty tables."""
    plane = Plane(superuser)
    plane.empty()
    return plane


@pytest.fixture
async def store(control: str) -> AsyncIterator[Store]:
    store = Store(control, pool_size=2, answer_seconds=60)
    yield store
    await store.close()
