"""A template whose collation version changed is retired, and built again if the service has its SQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import psycopg
import pytest

from freshdb_service.embedded import postgres as embedded_postgres
from freshdb_service.errors import TemplateBuilding, TemplateNotFound
from freshdb_service.leasing.acquire import Granted
from freshdb_service.leasing.acquire_request import AcquireRequest
from freshdb_service.lifecycle import Isolation, TemplateState
from freshdb_service.postgres import Login, Server, run_sql
from freshdb_service.postgres.names import token_of
from freshdb_service.redis.events import Event
from freshdb_service.status.overview import Overview
from freshdb_service.store import databases as store_databases
from freshdb_service.store import templates as store_templates
from freshdb_service.store.audit_log import AuditFilter
from freshdb_service.store.rows import TemplateRow
from freshdb_service.templates import builds
from freshdb_service.templates.registry import RegisterRequest
from tests.integration.installations import SQL, Bench, Installation, names_on, new_installation, replica
from tests.integration.maintenance.test_pools import BOTH, filled
from tests.limits import LIMIT_SECONDS
from tests.servers import PostgresServer, Servers
from tests.services import with_database

REASON = "it was built with collation version 0, and the server pg18 now has 1, so its indexes may be in a wrong order"


def update_library(installation: Installation, template: TemplateRow) -> None:
    """Make a template's database older than the server's collations, as it is after an update of the C library."""
    with psycopg.connect(installation.dsns[0], autocommit=True) as connection:
        done = connection.execute(
            "update pg_database set datcollversion = '0' where datname = %s and datcollversion is not null",
            [template.database_name],
        )
        assert done.rowcount == 1


def outdated_on(installation: Installation) -> set[str]:
    """Return the names of the installation's databases that are older than the server's collations."""
    with psycopg.connect(installation.dsns[0]) as connection:
        rows = connection.execute("select datname from pg_database where datcollversion = '0'").fetchall()
    return {row[0] for row in rows} & names_on(installation)


def rows_of(installation: Installation, held: Granted) -> list[str]:
    with psycopg.connect(with_database(installation.dsns[0], held.lease.database_name)) as connection:
        query = f"select name from {held.lease.schema_name or 'public'}.item"
        return [row[0] for row in connection.execute(query.encode()).fetchall()]


async def built_by_command(bench: Bench) -> TemplateRow:
    """Build an empty template as a command does."""
    registered = await bench.templates.register(RegisterRequest("shop", "1", None, [], 60), wait_seconds=60)
    assert registered.build is not None
    return await bench.templates.finish_build(registered.template.id, registered.build.token)


async def settle(bench: Bench) -> None:
    """Finish the builds, drop what a retired template left, and fill the pools."""
    for _ in range(2):
        await bench.builds.close()
        await bench.reset_jobs.resets.finish()
        await bench.replenisher.run_once()
        await bench.reconciler.run_once()


@asynccontextmanager
async def builds_paused(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    go_on = asyncio.Event()

    async def later(server: Server, login: Login, sql: Sequence[str], **options: Any) -> None:  # noqa: ANN401
        await go_on.wait()
        await run_sql(server, login, sql, **options)

    monkeypatch.setattr(builds, "run_sql", later)
    yield
    go_on.set()


async def listed(bench: Bench) -> list[TemplateRow]:
    return await bench.templates.listing(name=None, state=None, limit=100, after=None)


async def events(bench: Bench) -> list[Event]:
    await bench.at.events.flush()
    return list(await bench.at.events.read("0"))


async def kinds_of(bench: Bench, database: UUID) -> list[str]:
    return [one.kind for one in await events(bench) if one.data.get("database") == str(database)]


async def events_of(bench: Bench, kind: str) -> list[object]:
    """Return the reasons of events."""
    return [one.data.get("reason") for one in await events(bench) if one.kind == kind]


async def recorded(bench: Bench, action: str) -> list[object]:
    """Return the reasons in the audit log, newest first."""
    rows = await bench.at.audit_log.listing(AuditFilter(action=action), limit=100, before=None)
    return [one.details.get("reason") for one in rows]


async def findings(bench: Bench) -> list[tuple[str, str, str]]:
    """Return the findings about templates, but not the warnings that these are empty."""
    found = (await Overview(bench.at).snapshot()).findings
    about = [one for one in found if one.subject == "template" and one.code != "template_warnings"]
    return [(one.severity, one.code, one.label) for one in about]


def dies(_template: TemplateRow, *, in_turn: bool) -> None:
    raise ConnectionAbortedError(in_turn)


@BOTH
async def test_outdated_template_with_sql_is_built_again(
    bench: Bench, installation: Installation, isolation: Isolation
) -> None:
    held = await filled(bench, isolation)
    await bench.pools.resize(held.lease.pool_id, {"max_size": 7})
    old = await bench.templates.find("shop")
    update_library(installation, old)
    await bench.reconciler.run_once()
    assert (await bench.leases.get(held.lease.id)).state == "active"
    assert old.database_name in names_on(installation)  # as long as it has databases
    await bench.leases.release(held.lease.id, principal="test")
    await settle(bench)
    again = await bench.templates.find("shop")
    assert (again.fingerprint, again.state, again.ready_at) == (old.fingerprint, "ready", old.ready_at)
    assert again.id != old.id
    assert [row.id for row in await listed(bench)] == [again.id]
    assert len({one for one in names_on(installation) if "_t_" in one}) == 1
    new = await bench.acquire(isolation=isolation)
    assert new.lease.template_id == again.id
    assert (await bench.pools.show(new.lease.pool_id)).pool.max_size == 7
    assert rows_of(installation, new) == ["apple"]
    assert outdated_on(installation) == set()
    assert not [
        one for one in names_on(installation) if token_of(held.lease.pool_id) in one
    ]  # its shared database


async def test_database_of_outdated_template_is_dropped_after_its_lease(
    bench: Bench, installation: Installation
) -> None:
    held = await filled(bench, Isolation.DATABASE)
    update_library(installation, await bench.templates.find("shop"))
    await bench.reconciler.run_once()
    await bench.leases.release(held.lease.id, principal="test")
    await settle(bench)
    kinds = await kinds_of(bench, held.lease.database_id)
    assert kinds[-1] == "database.dropped"
    assert kinds.count("database.ready") == 1  # before the lease
    assert held.lease.database_name not in names_on(installation)


async def test_outdated_template_of_a_command_is_retired_until_it_is_built_again(
    bench: Bench, installation: Installation
) -> None:
    old = await built_by_command(bench)
    await bench.replenisher.run_once()
    update_library(installation, old)
    await bench.reconciler.run_once()
    for _ in range(2):
        await settle(bench)
        for acquire in (bench.acquire("shop"), bench.acquire("shop@1")):
            with pytest.raises(TemplateNotFound, match=f"was retired: {REASON}"):
                await acquire
        with pytest.raises(TemplateNotFound, match=f"was retired: {REASON}"):
            await bench.templates.find("shop")
        assert names_on(installation) == set()
        assert await bench.pools.listing() == []
        assert await findings(bench) == [("warning", "template_outdated", "shop@1")]
    again = await built_by_command(bench)
    await settle(bench)
    assert (await bench.templates.find("shop")).id == again.id
    assert await findings(bench) == []
    assert [row.id for row in await listed(bench)] == [again.id]


async def test_status_events_and_audit_log_show_the_change(
    bench: Bench, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = await bench.template()
    update_library(installation, template)
    async with builds_paused(monkeypatch):
        await bench.reconciler.run_once()
        assert await findings(bench) == [("info", "template_rebuilding", template.label)]
        with pytest.raises(TemplateBuilding):
            await bench.acquire()
    await settle(bench)
    assert await findings(bench) == []
    assert await events_of(bench, "template.retired") == [REASON]
    assert await events_of(bench, "template.building") == [None, REASON]
    assert await recorded(bench, "template.retired") == [REASON]
    assert await recorded(bench, "template.building") == [REASON, None]  # the newest first


async def test_name_means_the_same_template_after_all_were_built_again(
    bench: Bench, installation: Installation
) -> None:
    first = await bench.template(sql="create table item (id int)")
    second = await bench.template(sql="create table item (id bigint)")
    for one in (first, second):
        update_library(installation, one)
    await bench.reconciler.run_once()
    async with bench.at.store.statement() as connection:
        found = await store_templates.find(connection, "shop", None)
    assert found is not None
    assert found.fingerprint == second.fingerprint  # also while the other one is ready first
    await settle(bench)
    assert (await bench.templates.find("shop")).fingerprint == second.fingerprint
    assert {row.fingerprint for row in await listed(bench)} == {first.fingerprint, second.fingerprint}


async def test_only_one_replica_replaces_an_outdated_template(installation: Installation) -> None:
    async with replica(installation) as one, replica(installation) as two:
        template = await one.template()
        update_library(installation, template)
        await asyncio.gather(*(each.reconciler.run_once() for each in (one, two)))
        for each in (one, two):
            await settle(each)
        assert len(await listed(one)) == 1
        assert len(await recorded(one, "template.retired")) == 1


async def test_build_of_a_replica_that_died_after_it_retired_the_template_is_taken_over(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with replica(installation) as one, replica(installation) as two:
        template = await one.template()
        update_library(installation, template)
        monkeypatch.setattr(one.builds, "begin", dies)
        with pytest.raises(ConnectionAbortedError):
            await one.reconciler.run_once()
        found = await two.templates.find("shop")
        assert found.state is TemplateState.BUILDING
        with psycopg.connect(installation.control, autocommit=True) as control:
            control.execute("update templates set build_deadline_at = now() where state = 'building'")
        await settle(two)
        await two.builds.close()
        assert (await two.templates.find("shop")).state is TemplateState.READY


async def test_waiting_caller_is_told_that_the_template_is_built_again(
    bench: Bench, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = await bench.template()
    waiting = asyncio.create_task(
        bench.acquiring.acquire(
            [AcquireRequest("shop", Isolation.DATABASE, 300)], principal="test", wait_seconds=LIMIT_SECONDS
        )
    )
    staying = asyncio.create_task(bench.at.queue.stay(bench.at.stopping))
    [health] = await bench.pools.listing()
    while not (await bench.at.queue.place(health.pool.id)).waiting:
        await asyncio.sleep(0.01)
    update_library(installation, template)
    async with builds_paused(monkeypatch):
        await bench.reconciler.run_once()
        with pytest.raises(TemplateBuilding):
            await waiting
    staying.cancel()


async def test_outdated_templates_are_built_again_a_few_at_a_time(
    postgres_18: PostgresServer, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation = new_installation([postgres_18], redis_url, provision_concurrency=1, min_ready=0)
    running: list[str] = []
    most: list[int] = []

    async def counted(server: Server, login: Login, sql: Sequence[str], **options: Any) -> None:  # noqa: ANN401
        running.append(login.database)
        most.append(len(running))
        await run_sql(server, login, sql, **options)
        running.remove(login.database)

    async with replica(installation) as bench:
        for name in ("bank", "shop", "zoo"):
            update_library(installation, await bench.template(name))
        monkeypatch.setattr(builds, "run_sql", counted)
        await bench.reconciler.run_once()
        await settle(bench)
        assert {row.state for row in await listed(bench)} == {TemplateState.READY}
        assert most == [1, 1, 1]


async def test_server_is_reconciled_if_the_versions_cannot_be_compared(
    bench: Bench, installation: Installation
) -> None:
    template = await bench.template()
    await bench.replenisher.run_once()
    async with bench.at.store.statement() as connection:
        row, _ = await store_databases.listing(connection, "pg18")
    change = "update pg_database set datlocale = %s where datname = %s"
    with psycopg.connect(installation.dsns[0], autocommit=True) as superuser:
        superuser.execute(change, ["no such locale", template.database_name])
        superuser.execute(f'drop database "{row.database_name}" with (force)'.encode())
        try:
            await bench.reconciler.run_once()
        finally:
            superuser.execute(change, ["C.UTF-8", template.database_name])
    assert await bench.states() == {"dirty": 1, "ready": 1}
    assert (await bench.templates.find("shop")).state is TemplateState.READY


ON_ONE_WORKER = pytest.mark.xdist_group("icu")
"""For tests that share ``icu_server``, because one of them changes its template0 for a moment."""


@pytest.fixture
def icu_server(
    postgres_15: PostgresServer, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> PostgresServer:
    """PostgreSQL 15 whose databases have the order of ICU, and so a collation version."""
    locale = ["--locale-provider=icu", "--icu-locale=en", "--locale=C.UTF-8"]
    monkeypatch.setattr(embedded_postgres, "_locales", lambda _major: [locale])
    return servers.postgres(postgres_15.major, owner="icu")


@ON_ONE_WORKER
async def test_template_on_postgresql_15_with_icu_is_built_again(
    icu_server: PostgresServer, redis_url: str
) -> None:
    installation = new_installation([icu_server], redis_url)
    async with replica(installation) as bench:
        template = await bench.template()
        await bench.replenisher.run_once()
        update_library(installation, template)
        with psycopg.connect(icu_server.dsn, autocommit=True) as connection:
            statement = (
                f'create database "{installation.settings.prefix}_x" template "{template.database_name}"'
            )
            with pytest.raises(psycopg.errors.InternalError_, match="collation version mismatch"):
                connection.execute(statement.encode())
        await bench.reconciler.run_once()
        await settle(bench)
        assert (await bench.templates.find("shop")).id != template.id
        assert rows_of(installation, await bench.acquire()) == ["apple"]
        assert outdated_on(installation) == set()


@ON_ONE_WORKER
async def test_build_fails_with_the_reason_until_template0_is_refreshed(
    icu_server: PostgresServer, redis_url: str
) -> None:
    """No template0 has a version, unless an administrator gave it one."""
    async with replica(new_installation([icu_server], redis_url)) as bench:
        with psycopg.connect(icu_server.dsn, autocommit=True) as connection:
            connection.execute("update pg_database set datcollversion = '0' where datname = 'template0'")
            registered = await bench.templates.register(
                RegisterRequest("shop", None, [SQL], [], 60), wait_seconds=60
            )
            assert registered.template.error is not None
            assert 'refused: template database "template0" has a collation version mismatch' in str(
                registered.template.error["message"]
            )
            connection.execute("alter database template0 refresh collation version")
        assert (await bench.template()).state is TemplateState.READY
