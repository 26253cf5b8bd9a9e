from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator

import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from freshdb_service import migrations
from freshdb_service.store.connection import Store
from freshdb_service.store.tables import metadata
from tests.servers import PostgresServer
from tests.services import with_database

BACK_TO_STEP_5 = """
ALTER TABLE templates DROP COLUMN log, DROP COLUMN warnings;
UPDATE alembic_version SET version_num = '0005'
"""
"""The step before the triggers, without undoing them."""


@pytest.fixture
def dsn(every_postgres: PostgresServer) -> Iterator[str]:
    name = f"migrated_{secrets.token_hex(4)}"
    with psycopg.connect(every_postgres.dsn, autocommit=True) as connection:
        connection.execute(f"create database {name}")
    yield with_database(every_postgres.dsn, name)
    with psycopg.connect(every_postgres.dsn, autocommit=True) as connection:
        connection.execute(f"drop database {name} with (force)")


async def test_migrated_schema_equals_the_declared_one(dsn: str) -> None:
    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        return list(compare_metadata(context, metadata))

    store = Store(dsn)
    await migrations.upgrade(store.engine)
    async with store.engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await store.close()


async def test_current_schema_is_detected_without_alembic(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        ScriptDirectory.from_config(migrations.alembic_config()).get_current_head()
        == migrations.newest_step()
    )
    store = Store(dsn)
    await migrations.upgrade(store.engine)
    monkeypatch.delattr(migrations, "_upgrade")
    await migrations.upgrade(store.engine)
    await store.close()


async def test_replicas_that_start_at_once_migrate_one_after_the_other(dsn: str) -> None:
    stores = [Store(dsn) for _ in range(5)]
    await asyncio.gather(*(migrations.upgrade(store.engine) for store in stores))
    for store in stores:
        await store.ping()
        await store.close()


async def test_every_migration_can_be_downgraded(dsn: str) -> None:
    def down(connection: Connection) -> None:
        config = migrations.alembic_config()
        config.attributes["connection"] = connection
        command.downgrade(config, "base")

    store = Store(dsn)
    await migrations.upgrade(store.engine)
    async with store.engine.begin() as connection:
        await connection.run_sync(down)
    await migrations.upgrade(store.engine)
    await store.close()


async def test_interrupted_migration_of_the_triggers_is_repeated(dsn: str) -> None:
    store = Store(dsn)
    await migrations.upgrade(store.engine)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(BACK_TO_STEP_5)
        connection.execute("drop trigger check_state on templates")
    await migrations.upgrade(store.engine)
    with psycopg.connect(dsn, autocommit=True) as connection:
        triggers = connection.execute(
            "select count(*) from pg_trigger where tgname = 'check_state'"
        ).fetchone()
    assert triggers == (3,)
    await store.close()


@pytest.mark.parametrize("first", ["leases", "databases"])
async def test_triggers_are_created_without_a_deadlock_with_replicas_at_work(dsn: str, first: str) -> None:
    """A transaction that locks two of the tables, in either order, ends while the migration waits for the first."""
    store = Store(dsn, answer_seconds=60)
    await migrations.upgrade(store.engine)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(BACK_TO_STEP_5)
    then = "databases" if first == "leases" else "leases"
    with psycopg.connect(dsn) as replica, psycopg.connect(dsn, autocommit=True) as watcher:
        replica.execute(f"update {first} set generation = 1")
        migrating = asyncio.create_task(migrations.upgrade(store.patient))
        waits = f"select count(*) from pg_locks where not granted and relation = '{first}'::regclass"
        while watcher.execute(waits).fetchone() != (1,):
            await asyncio.sleep(0.01)
        replica.execute(f"update {then} set generation = 1")
        replica.commit()
        await migrating
    assert await migrations.step_of(store) == migrations.newest_step()
    await store.close()
