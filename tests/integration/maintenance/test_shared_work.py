"""Expensive comparisons are done by one replica for all, and by another one if that one cannot."""

from __future__ import annotations

from dataclasses import replace

import psycopg

from freshdb_service.maintenance.reconciler import Reconciler
from freshdb_service.redis.shared_work import SharedWork
from tests.faults.proxy import Proxy
from tests.integration.installations import Bench, Installation, names_on, replica


def reconciler(bench: Bench) -> Reconciler:
    """Return a reconciler with shared work."""
    return Reconciler(bench.at, bench.builds, SharedWork(bench.at.redis))


def leftover(installation: Installation, bench: Bench) -> str:
    """Create an object that the next comparison of the server drops."""
    name = f"{installation.settings.prefix}_d_0123456789ab_1"
    with psycopg.connect(installation.dsns[0], autocommit=True) as superuser:
        superuser.execute(f"create role {name}")
        superuser.execute(f"comment on role {name} is 'freshdb:{bench.at.id}'")
    return name


async def test_one_replica_compares_a_server_for_all_and_a_new_replica_compares_once(
    installation: Installation, bench: Bench
) -> None:
    one, two = reconciler(bench), reconciler(bench)
    await one.run_once()
    first = leftover(installation, bench)
    await two.run_once()
    assert first not in names_on(installation)
    second = leftover(installation, bench)
    await two.run_once()
    assert second in names_on(installation)
    await one.run_once()
    assert second not in names_on(installation)


async def test_server_unreachable_for_one_replica_is_compared_by_another(
    installation: Installation, bench: Bench
) -> None:
    with Proxy(installation.dsns[0]) as between:
        led = installation.settings.model_copy(update={"postgres": (f"pg18={between.url}",)})
        async with replica(replace(installation, settings=led)) as cut_off:
            one, two = reconciler(cut_off), reconciler(bench)
            await one.run_once()
            await two.run_once()
            name = leftover(installation, bench)
            between.refuse()
            await two.run_once()
            assert name in names_on(installation)
            await one.run_once()
            assert name in names_on(installation)
            await two.run_once()
            assert name not in names_on(installation)


async def test_deadlines_are_compared_by_one_replica(bench: Bench) -> None:
    one, two = reconciler(bench), reconciler(bench)
    await one.run_once()
    await two.run_once()
    await bench.template()
    await bench.replenisher.run_once()
    held = await bench.acquire()
    await bench.at.redis.client.delete(bench.at.redis.key("deadlines"))
    await two.run_once()
    assert (await bench.at.deadlines.expiry([held.lease.id])) == [None]
    await one.run_once()
    assert (await bench.at.deadlines.expiry([held.lease.id])) != [None]
