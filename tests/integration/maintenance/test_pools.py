"""The replenisher and the janitor: pools are filled up to their limits and shrink, and databases are reset."""

from __future__ import annotations

import asyncio
from uuid import UUID

import psycopg
import pytest

from freshdb_service.errors import IsolationUnsupported, PoolExhausted, TemplateNotFound
from freshdb_service.leasing.acquire import Granted
from freshdb_service.leasing.acquire_request import AcquireRequest
from freshdb_service.leasing.leases import Leases
from freshdb_service.lifecycle import Isolation
from freshdb_service.maintenance import replenisher
from freshdb_service.pooling.worker_pool import WorkerPool
from tests.integration.installations import Bench, Installation, names_on, new_installation, replica
from tests.limits import LIMIT_SECONDS
from tests.servers import PostgresServer

BOTH = pytest.mark.parametrize("isolation", list(Isolation))


async def the_pool(bench: Bench) -> UUID:
    [health] = await bench.pools.listing()
    return health.pool.id


async def filled(bench: Bench, isolation: Isolation) -> Granted:
    """Acquire from an empty pool while the replenisher creates its first database."""
    await bench.template()
    waiting = asyncio.create_task(
        bench.acquiring.acquire([AcquireRequest("shop", isolation, 300)], principal="test", wait_seconds=60)
    )
    staying = asyncio.create_task(bench.at.queue.stay(bench.at.stopping))
    while not waiting.done():
        await bench.replenisher.run_once()
        await asyncio.sleep(0.01)
    staying.cancel()
    return (await waiting)[0]


async def test_pool_keeps_min_ready_and_replaces_leased_databases(bench: Bench) -> None:
    await bench.template()
    await bench.replenisher.run_once()
    assert await bench.states() == {"ready": 2}
    await bench.acquire()
    await bench.replenisher.run_once()
    assert await bench.states() == {"leased": 1, "ready": 2}


async def test_pool_filled_by_two_replicas_stays_within_max_size(installation: Installation) -> None:
    async with replica(installation) as one, replica(installation) as two:
        await one.template()
        await one.pools.resize(await the_pool(one), {"min_ready": 5, "max_size": 5})
        await asyncio.gather(*(each.replenisher.run_once() for each in (one, two, one, two)))
        assert await one.states() == {"ready": 5}


async def test_missing_databases_are_created_when_slots_become_free_without_another_inspection(
    postgres_18: PostgresServer, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replenisher, "_PAUSE_SECONDS", 3_600)  # only one inspection
    async with replica(
        new_installation([postgres_18], redis_url, provision_concurrency=1, min_ready=0)
    ) as bench:
        for name in ("shop", "bank"):
            await bench.template(name=name)
        for health in await bench.pools.listing():
            await bench.pools.resize(health.pool.id, {"min_ready": 3})
        looking = asyncio.create_task(bench.replenisher.run_once())
        async with asyncio.timeout(LIMIT_SECONDS):
            while await bench.states() != {"ready": 6}:
                assert not looking.done()
                await asyncio.sleep(0.01)
        looking.cancel()


async def test_marked_databases_are_dropped_while_others_are_missing(
    postgres_18: PostgresServer, redis_url: str
) -> None:
    async with replica(
        new_installation([postgres_18], redis_url, provision_concurrency=1, min_ready=0)
    ) as bench:
        await bench.template(name="bank")
        await bench.template(name="shop")
        over, lacking = sorted(await bench.pools.listing(), key=lambda health: health.pool.template)
        await bench.pools.resize(over.pool.id, {"min_ready": 2})
        await bench.replenisher.run_once()
        await bench.pools.resize(over.pool.id, {"min_ready": 0, "idle_seconds": 0})
        await bench.templates.retire(str(over.pool.template_id), force=True)
        await bench.pools.resize(lacking.pool.id, {"min_ready": 12, "max_size": 12})
        looking = asyncio.create_task(bench.replenisher.run_once())
        async with asyncio.timeout(LIMIT_SECONDS):
            while (await bench.pools.show(over.pool.id)).databases:
                await asyncio.sleep(0.001)
        assert sum((await bench.pools.show(lacking.pool.id)).databases.values()) < 12
        await looking


async def test_replicas_that_see_the_same_shortage_create_each_missing_database_once(
    installation: Installation,
) -> None:
    async with replica(installation) as one, replica(installation) as two:
        await one.template()
        await one.pools.resize(await the_pool(one), {"min_ready": 5, "max_size": 50})
        await asyncio.gather(*(each.replenisher.run_once() for each in (one, two, one, two)))
        assert await one.states() == {"ready": 5}


async def test_pool_with_lower_limits_shrinks(bench: Bench) -> None:
    await bench.template()
    pool = await the_pool(bench)
    await bench.pools.resize(pool, {"min_ready": 4})
    await bench.replenisher.run_once()
    assert await bench.states() == {"ready": 4}
    await bench.pools.resize(pool, {"min_ready": 1, "max_size": 2})
    await bench.replenisher.run_once()
    assert await bench.states() == {"ready": 2}


async def test_janitor_finds_dirty_database_without_wake_up_when_another_reset_ends(
    postgres_18: PostgresServer, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with replica(new_installation([postgres_18], redis_url, janitor_seconds=0.001)) as bench:
        await bench.template()
        await bench.replenisher.run_once()
        held = await bench.acquire()
        short, long, waits = asyncio.Event(), asyncio.Event(), asyncio.Event()
        for other in (short, long):
            bench.reset_jobs.resets.submit(_until(other))
        slot_freed = WorkerPool.slot_freed

        async def waiting(workers: WorkerPool, wake: asyncio.Event | None) -> bool:
            waits.set()
            return await slot_freed(workers, wake)

        monkeypatch.setattr(WorkerPool, "slot_freed", waiting)
        round_of_it = asyncio.create_task(bench.janitor.run_once())
        await waits.wait()
        await bench.released_dirty(held)
        assert await bench.states() == {"ready": 1, "dirty": 1}
        short.set()
        async with asyncio.timeout(LIMIT_SECONDS):
            while await bench.states() != {"ready": 2}:
                await asyncio.sleep(0.01)
        assert not round_of_it.done()
        long.set()
        await round_of_it


async def _until(event: asyncio.Event) -> None:
    await event.wait()


async def test_server_never_has_more_databases_than_max_databases(
    postgres_18: PostgresServer, redis_url: str
) -> None:
    async with replica(new_installation([postgres_18], redis_url, max_databases=3, min_ready=5)) as bench:
        await bench.template()
        await bench.replenisher.run_once()
        assert await bench.states() == {"ready": 3}


async def test_server_over_max_disk_bytes_gets_no_database(
    postgres_18: PostgresServer, redis_url: str
) -> None:
    async with replica(new_installation([postgres_18], redis_url, max_disk_bytes=2**20)) as bench:
        await bench.template()
        await bench.reconciler.run_once()  # measures the disk: the template alone is larger
        await bench.replenisher.run_once()
        assert await bench.states() == {}


@BOTH
@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "by the janitor"])
async def test_released_database_is_ready_again_with_new_login(
    bench: Bench, isolation: Isolation, *, at_once: bool
) -> None:
    used = await filled(bench, isolation)
    if at_once:
        await bench.leases.release(used.lease.id, principal="test")
        await bench.reset_jobs.resets.finish()
    else:
        await bench.released_dirty(used)
        assert (await bench.states())["dirty"] == 1
        await bench.janitor.run_once()
    assert "dirty" not in await bench.states()
    again = await bench.acquire(isolation=isolation)
    assert again.lease.database_id == used.lease.database_id
    assert again.lease.generation > used.lease.generation
    assert again.lease.login != used.lease.login


async def test_simultaneous_releases_wait_for_worker_slots(
    postgres_18: PostgresServer, redis_url: str
) -> None:
    """There is no janitor here, so a dirty database would stay dirty."""
    async with replica(
        new_installation([postgres_18], redis_url, provision_concurrency=1, min_ready=12)
    ) as bench:
        assert bench.reset_jobs.resets.free == 4
        await bench.template()
        await bench.replenisher.run_once()
        held = [await bench.acquire() for _ in range(12)]
        leases = Leases(bench.at, bench.reset_jobs, slot_seconds=LIMIT_SECONDS)
        await asyncio.gather(*(leases.release(one.lease.id, principal="test") for one in held))
        await bench.reset_jobs.resets.finish()
        assert await bench.states() == {"ready": 12}


async def test_idle_pool_shrinks_to_min_ready(postgres_18: PostgresServer, redis_url: str) -> None:
    async with replica(new_installation([postgres_18], redis_url, min_ready=4)) as bench:
        await bench.template()
        await bench.replenisher.run_once()
        assert await bench.states() == {"ready": 4}
        await bench.pools.resize(await the_pool(bench), {"min_ready": 1, "idle_seconds": 300})
        await bench.replenisher.run_once()
        assert await bench.states() == {"ready": 4}  # requested a moment ago
        await bench.pools.resize(await the_pool(bench), {"idle_seconds": 1e-6})
        await bench.replenisher.run_once()
        assert await bench.states() == {"ready": 1}


async def test_unused_template_is_dropped_without_leftovers(
    postgres_18: PostgresServer, redis_url: str
) -> None:
    installation = new_installation([postgres_18], redis_url, unused_template_seconds=1e-6)
    async with replica(installation) as bench:
        await bench.template()
        await bench.replenisher.run_once()
        assert names_on(installation)
        await bench.reconciler.run_once()  # retires it
        await bench.replenisher.run_once()  # drops its databases
        await bench.reconciler.run_once()  # drops the template itself
        assert names_on(installation) == set()
        with pytest.raises(TemplateNotFound):
            await bench.templates.find("shop")


async def test_leased_template_is_not_retired_as_unused(postgres_18: PostgresServer, redis_url: str) -> None:
    async with replica(new_installation([postgres_18], redis_url, unused_template_seconds=1e-6)) as bench:
        await bench.template()
        await bench.replenisher.run_once()
        await bench.acquire()
        await bench.reconciler.run_once()
        assert (await bench.templates.find("shop")).state == "ready"


async def test_template_unfit_for_schema_isolation_is_refused_with_all_reasons(bench: Bench) -> None:
    await bench.template("two", "create schema other; create table other.t (id int); create table u (id int)")
    waiting = asyncio.create_task(
        bench.acquiring.acquire(
            [AcquireRequest("two", Isolation.SCHEMA, 300)], principal="test", wait_seconds=30
        )
    )
    staying = asyncio.create_task(bench.at.queue.stay(bench.at.stopping))
    while not waiting.done():
        await bench.replenisher.run_once()
        await asyncio.sleep(0.01)
    staying.cancel()
    with pytest.raises(IsolationUnsupported, match="other"):
        await waiting
    with pytest.raises(IsolationUnsupported, match="other"):  # at once, from the pool's row
        await bench.acquire("two", Isolation.SCHEMA)


async def test_pool_with_broken_template_reports_error_and_stops_creating(
    installation: Installation, bench: Bench
) -> None:
    await bench.template()
    template = await bench.templates.find("shop")
    with psycopg.connect(installation.dsns[0], autocommit=True) as connection:
        connection.execute(f'drop database "{template.database_name}"')
    await bench.replenisher.run_once()
    assert (await bench.states()).keys() == {"failed"}
    failed = (await bench.states())["failed"]
    await bench.replenisher.run_once()
    assert await bench.states() == {"failed": failed}
    with pytest.raises(PoolExhausted, match=f"the database {template.database_name} does not exist"):
        await bench.acquire()


@BOTH
async def test_audit_findings_are_counted_and_reported(
    postgres_18: PostgresServer, redis_url: str, isolation: Isolation
) -> None:
    async with replica(
        new_installation([postgres_18], redis_url, audit_every=1, min_ready=1, max_size=1)
    ) as bench:
        first = await filled(bench, isolation)
        await bench.leases.release(first.lease.id, principal="test")  # rebuilt, so that there is a baseline
        await bench.reset_jobs.resets.finish()
        [server] = bench.at.servers.values()
        for secret, found in (
            ("SELECT 1", ()),
            ("INSERT INTO {}.item (name) VALUES ('fig')", ("has 2 rows instead of 1",)),
        ):
            held = await bench.acquire(isolation=isolation)
            async with server.sessions.inside(
                held.lease.database_name
            ) as session:  # its writes are not counted
                await session.execute(secret.format(held.lease.schema_name or "public"))
            await bench.leases.release(held.lease.id, principal="test")
            await bench.reset_jobs.resets.finish()
            await bench.at.events.flush()
            told = [one.data for one in await bench.at.events.read("0") if one.kind == "database.audited"][-1]
            assert told["same"] is not bool(found)
            assert all(words in str(told["differences"]) for words in found)
        metrics = bench.at.metrics.text().decode()
        for result in ("same", "different"):
            assert f'freshdb_audits_total{{isolation="{isolation}",result="{result}"}} 1.0' in metrics
        pools = {Isolation.DATABASE, isolation}  # the first one always exists
        assert await bench.states() == {"ready": len(pools)}
