"""Whatever dies, every database finds its way back, and nothing of ours is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

import asyncpg
import psycopg
import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncConnection

from freshdb_service.errors import BackendUnavailable, Conflict, LeaseEnded
from freshdb_service.leasing.acquire import Granted
from freshdb_service.leasing.leases import Leases
from freshdb_service.lifecycle import DatabaseState, LeaseState
from freshdb_service.pooling.reset_jobs import ResetJobs
from freshdb_service.postgres import CleaningEngine, Leftovers, ResetOutcome
from freshdb_service.store import databases as store_databases
from freshdb_service.store import leases as store_leases
from freshdb_service.store import reset_claims
from freshdb_service.templates.registry import RegisterRequest
from tests.integration.installations import Bench, Site, names_on, replica, site
from tests.servers import PostgresServer


@asynccontextmanager
async def raw(redis_url: str) -> AsyncIterator[Redis]:
    connection: Redis = Redis.from_url(redis_url)
    yield connection
    await connection.aclose()


def execute(dsn: str, statement: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statement)


async def ready(bench: Bench) -> None:
    await bench.template()
    await bench.replenisher.run_once()
    assert await bench.states() == {"ready": 2}


async def test_losing_all_of_redis_loses_no_lease_and_ends_none_early(bench: Bench, redis_url: str) -> None:
    await ready(bench)
    held = await bench.acquire()
    await bench.reaper.run_once()
    async with raw(redis_url) as redis:
        await redis.flushall()
    renewed = await bench.leases.renew(held.lease.id, principal="test", ttl_seconds=None)
    assert renewed.ttl_seconds == pytest.approx(300, abs=2)
    async with raw(redis_url) as redis:
        await redis.flushall()
    await bench.reaper.run_once()  # sees that Redis has forgotten, and restores
    shown = await bench.leases.show(held.lease.id)
    assert shown.expires_at is not None
    assert (shown.expires_at - shown.lease.granted_at).total_seconds() >= 299
    await bench.reaper.run_once()
    assert (await bench.leases.get(held.lease.id)).state == "active"


async def test_a_redis_that_believes_what_was_true_before_ends_no_lease(bench: Bench, redis_url: str) -> None:
    """It has started from a snapshot, or a replica that lagged has become the one: no heartbeat is refused by that."""
    await ready(bench)
    held, other = await bench.acquire(), await bench.acquire()
    await bench.reaper.run_once()
    async with raw(redis_url) as redis:
        long_ago = {str(one.lease.id): 1 for one in (held, other)}
        await redis.zadd(bench.at.redis.key("deadlines"), long_ago)
        await redis.set(bench.at.redis.key("epoch"), "another run")
    renewed = await bench.leases.renew(held.lease.id, principal="test", ttl_seconds=None)
    assert renewed.ttl_seconds == pytest.approx(300, abs=2)
    await bench.reaper.run_once()
    assert (await bench.leases.get(other.lease.id)).state == "active"


@pytest.mark.parametrize("forgets", [False, True], ids=["", "and Redis is emptied"])
async def test_no_heartbeat_revives_a_lease_that_ends_while_it_is_looked_for(
    bench: Bench, redis_url: str, monkeypatch: pytest.MonkeyPatch, *, forgets: bool
) -> None:
    await ready(bench)
    held = await bench.acquire()
    await bench.reaper.run_once()
    looked = store_leases.live

    async def looked_and_then_it_ended(
        connection: AsyncConnection, lease_id: UUID | None = None
    ) -> list[store_leases.LiveLease]:
        there = await looked(connection, lease_id)
        assert [one.id for one in there] == [held.lease.id]
        monkeypatch.undo()
        await bench.leases.expire(held.lease.id)  # the reaper goes on
        if forgets:
            await redis.flushall()
        return there

    async with raw(redis_url) as redis:
        await redis.zadd(bench.at.redis.key("deadlines"), {str(held.lease.id): 1})
        assert (await bench.at.deadlines.due()).lease_ids == [held.lease.id]  # the reaper has begun
        monkeypatch.setattr(store_leases, "live", looked_and_then_it_ended)
        with pytest.raises(LeaseEnded):
            await bench.leases.renew(held.lease.id, principal="test", ttl_seconds=None)
    assert await bench.at.deadlines.expiry([held.lease.id]) == [None]


async def test_a_deadline_without_a_lease_goes(bench: Bench, redis_url: str) -> None:
    await ready(bench)
    held = await bench.acquire()
    await bench.at.deadlines.admit(  # by somebody who died before it was granted
        held.lease.pool_id, [uuid4()], ttl_seconds=300, max_ttl_seconds=300, principal="test"
    )
    await bench.reconciler.run_once()
    assert len(await bench.at.deadlines.noted()) == 2  # it may be about to be granted
    await bench.reconciler.run_once()
    assert await bench.at.deadlines.noted() == {held.lease.id}
    async with raw(redis_url) as redis:
        assert await redis.zcard(bench.at.redis.key("deadlines")) == 1


async def test_a_release_that_was_not_settled_is_settled_when_it_is_asked_for_again(bench: Bench) -> None:
    await ready(bench)
    held = await bench.acquire()
    await store_leases.end(bench.at.store, held.lease.id, LeaseState.RELEASED, principal="test")
    assert await bench.at.deadlines.noted() == {held.lease.id}
    await bench.leases.release(held.lease.id, principal="test")
    assert await bench.at.deadlines.noted() == set()


async def test_a_database_that_was_dropped_by_hand_is_made_anew_though_its_login_is_there(
    bench: Bench,
) -> None:
    await ready(bench)
    with psycopg.connect(bench.at.settings.servers[0].dsn, autocommit=True) as superuser:
        async with bench.at.store.statement() as connection:
            [one, _] = await store_databases.listing(connection, bench.at.settings.servers[0].name)
        assert one.database_name == one.login
        superuser.execute(f'drop database "{one.database_name}" with (force)')
    await bench.reconciler.run_once()
    assert await bench.states() == {"ready": 1, "dirty": 1}
    await bench.janitor.run_once()
    for held in (await bench.acquire(), await bench.acquire()):
        async with bench.at.server(held.lease.server).inside(held.lease.database_name) as inside:
            assert await inside.fetchval("select count(*) from public.item") == 1


async def test_a_lease_without_a_deadline_gets_one(bench: Bench, redis_url: str) -> None:
    await ready(bench)
    held = await bench.acquire()
    async with raw(redis_url) as redis:
        await redis.delete(bench.at.redis.key("deadlines"))
    await bench.reconciler.run_once()
    assert (await bench.leases.show(held.lease.id)).expires_at is not None


async def test_a_deadline_without_a_lease_is_forgotten(bench: Bench, redis_url: str) -> None:
    await bench.reaper.run_once()
    ghost = uuid4()
    async with raw(redis_url) as redis:
        await redis.zadd(bench.at.redis.key("deadlines"), {str(ghost): 1})
        await bench.reaper.run_once()
        assert await redis.zcard(bench.at.redis.key("deadlines")) == 0
        assert await redis.zcard(bench.at.redis.key("expiring")) == 0


async def test_a_reaper_that_died_between_redis_and_the_control_plane_is_replaced(
    bench: Bench, redis_url: str
) -> None:
    await ready(bench)
    held = await bench.acquire()
    await bench.reaper.run_once()
    async with raw(redis_url) as redis:
        await redis.zadd(bench.at.redis.key("deadlines"), {str(held.lease.id): 1})
        due = await bench.at.deadlines.due()  # and here the first one died
        assert due.lease_ids == [held.lease.id]
        await redis.zadd(bench.at.redis.key("expiring"), {str(held.lease.id): 1})  # a while ago
    await bench.reaper.run_once()
    assert (await bench.leases.get(held.lease.id)).state == "expired"
    await bench.janitor.run_once()
    assert await bench.states() == {"ready": 2}


async def test_what_a_reaper_could_not_end_is_ended_in_the_next_round(
    here: Site, bench: Bench, redis_url: str
) -> None:
    await ready(bench)
    held, other = await bench.acquire(), await bench.acquire()
    await bench.reaper.run_once()
    await due_now(bench, redis_url, held, other)
    control = f"{here.settings.prefix}_control"
    execute(here.dsns[0], f'ALTER DATABASE "{control}" ALLOW_CONNECTIONS false')
    execute(
        here.dsns[0], f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{control}'"
    )
    with pytest.raises(BackendUnavailable):
        await bench.reaper.run_once()
    execute(here.dsns[0], f'ALTER DATABASE "{control}" ALLOW_CONNECTIONS true')
    await bench.reaper.run_once()
    assert [(await bench.leases.get(one.lease.id)).state for one in (held, other)] == ["expired"] * 2


async def test_one_lease_that_cannot_be_ended_holds_no_other_up(
    here: Site, bench: Bench, redis_url: str
) -> None:
    await ready(bench)
    stuck, other = sorted([await bench.acquire(), await bench.acquire()], key=lambda one: str(one.lease.id))
    await bench.reaper.run_once()
    execute(
        here.control,
        f"""
        CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'data_exception'; END $$;
        CREATE TRIGGER no BEFORE UPDATE ON leases FOR EACH ROW
            WHEN (old.id = '{stuck.lease.id}') EXECUTE FUNCTION no()
        """,
    )
    await due_now(bench, redis_url, stuck, other)
    with pytest.raises(asyncpg.DataError):
        await bench.reaper.run_once()
    await bench.reaper.run_once()
    assert [(await bench.leases.get(one.lease.id)).state for one in (stuck, other)] == ["active", "expired"]


async def due_now(bench: Bench, redis_url: str, *held: Granted) -> None:
    """Have the time of these be over, the first one's first."""
    async with raw(redis_url) as redis:
        ends = {str(one.lease.id): when for when, one in enumerate(held, start=1)}
        await redis.zadd(bench.at.redis.key("deadlines"), ends)


async def test_a_lease_that_was_handed_on_and_got_its_deadline_back_lives(
    bench: Bench, redis_url: str
) -> None:
    await ready(bench)
    held = await bench.acquire()
    await bench.reaper.run_once()
    async with raw(redis_url) as redis:
        await redis.zadd(bench.at.redis.key("deadlines"), {str(held.lease.id): 1})
        due = await bench.at.deadlines.due()
        assert due.lease_ids == [held.lease.id]
        await redis.flushall()
    await bench.reaper.run_once()  # another one, who sees that Redis has forgotten
    await bench.at.deadlines.hand_on(due.lease_ids)
    await bench.reaper.run_once()
    assert (await bench.leases.get(held.lease.id)).state == "active"


async def test_a_database_whose_worker_died_in_the_middle_of_a_reset_is_reset_by_another(
    here: Site, bench: Bench
) -> None:
    await ready(bench)
    held = await bench.acquire()
    await bench.given_back(held)
    [claimed] = await reset_claims.claim_dirty(bench.at.store, ["pg18"], 1, claim_seconds=60)
    assert claimed.row.state is DatabaseState.RESETTING  # and here its worker died
    await bench.reconciler.run_once()
    assert (await bench.states())["resetting"] == 1  # it may still be at it
    execute(here.control, "update databases set claimed_until = now() where state = 'resetting'")
    await bench.reconciler.run_once()
    assert (await bench.states())["dirty"] == 1
    await bench.janitor.run_once()
    assert (await bench.states()).keys() == {"ready"}


async def test_a_lease_whose_worker_died_in_the_middle_of_its_reset_can_be_reset_again(
    here: Site, bench: Bench
) -> None:
    await ready(bench)
    held = await bench.acquire()
    claimed = await reset_claims.claim_leased(bench.at.store, held.lease.id, "test", claim_seconds=60)
    assert claimed is not None  # and here its worker died
    with pytest.raises(Conflict, match="being reset"):
        await bench.leases.reset(held.lease.id, principal="test")
    with pytest.raises(Conflict, match="being reset"):
        await bench.leases.keep(held.lease.id, principal="test", ttl_seconds=60, reason=None)
    assert (await bench.leases.get(held.lease.id)).state == "active"
    execute(here.control, "update databases set claimed_until = now() where state = 'resetting'")
    await bench.reconciler.run_once()
    assert (await bench.states())["leased"] == 1
    again = await bench.leases.reset(held.lease.id, principal="test")
    assert again.lease.generation == held.lease.generation + 2
    assert again.lease.password is not None
    await bench.leases.release(held.lease.id, principal="test")
    await bench.janitor.run_once()
    assert (await bench.states()).keys() == {"ready"}


class NotNow(CleaningEngine):
    """Finds the server away whenever it is to reset something."""

    async def reset(self, *_: object) -> ResetOutcome:
        raise BackendUnavailable("not now")


async def test_a_release_closes_the_login_also_when_the_reset_cannot_begin(here: Site, bench: Bench) -> None:
    await ready(bench)
    held = await bench.acquire()
    databases = ResetJobs(bench.at, NotNow())
    released = await Leases(bench.at, databases).release(held.lease.id, principal="test")
    assert released.leftovers == Leftovers()
    with psycopg.connect(here.dsns[0]) as superuser:
        query = "select rolcanlogin from pg_roles where rolname = %s"
        assert superuser.execute(query, [held.lease.login]).fetchone() == (False,)
    await databases.resets.finish()
    assert (await bench.states())["dirty"] == 1
    execute(here.control, "update databases set not_before = null")
    await bench.janitor.run_once()
    assert await bench.states() == {"ready": 2}


async def test_more_resets_in_place_than_there_are_hands_wait_for_their_turn(
    postgres_18: PostgresServer, redis_url: str
) -> None:
    async with replica(
        site([postgres_18], redis_url, provision_concurrency=1, min_ready=6, idle_sessions=0)
    ) as bench:
        await bench.template()
        await bench.replenisher.run_once()
        held = [await bench.acquire() for _ in range(6)]
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, (await bench.states()).get("resetting", 0))

        watching = asyncio.create_task(watch())
        again = await asyncio.gather(*(bench.leases.reset(one.lease.id, principal="test") for one in held))
        watching.cancel()
        assert [one.lease.generation for one in again] == [one.lease.generation + 1 for one in held]
        assert 1 <= most <= 4


async def test_a_lease_that_ends_while_it_is_reset_leaves_a_clean_database(bench: Bench) -> None:
    await ready(bench)
    held = await bench.acquire()
    for clean, state in ((None, "dirty"), (reset_claims.ResetResult("d", None, "l", "p"), "ready")):
        claimed = await reset_claims.claim_leased(bench.at.store, held.lease.id, "test", claim_seconds=60)
        assert claimed is not None
        await bench.leases.release(held.lease.id, principal="test")
        assert not await reset_claims.return_claim(bench.at.store, claimed.row, clean)
        assert (await bench.states())[state] >= 1
        await bench.janitor.run_once()
        held = await bench.acquire()


async def test_a_database_whose_worker_died_while_making_it_is_dropped(here: Site, bench: Bench) -> None:
    await ready(bench)
    [health] = await bench.pools.listing()
    async with bench.at.store.transaction() as connection:
        await store_databases.plan(
            connection, health.pool.id, 1, enough=9, max_databases=10, claim_seconds=60
        )
    execute(here.control, "update databases set claimed_until = now() where state = 'creating'")
    await bench.reconciler.run_once()
    assert (await bench.states())["dropping"] == 1
    await bench.replenisher.run_once()
    assert (await bench.states()).keys() == {"ready"}


async def test_a_worker_that_was_paused_and_lost_its_claim_changes_nothing(here: Site, bench: Bench) -> None:
    await ready(bench)
    held = await bench.acquire()
    await bench.given_back(held)
    [paused] = await reset_claims.claim_dirty(bench.at.store, ["pg18"], 1, claim_seconds=60)
    execute(here.control, "update databases set claimed_until = now() where state = 'resetting'")
    await bench.reconciler.run_once()
    await bench.janitor.run_once()  # somebody else has done it
    stale = reset_claims.ResetResult("stale", None, "stale", "stale")
    assert not await reset_claims.make_ready(bench.at.store, paused.row, stale)
    async with bench.at.store.statement() as connection:
        assert not await store_databases.move(connection, paused.row, DatabaseState.FAILED)
        assert not await store_databases.extend_claim(connection, paused.row, 60)
    again = await bench.acquire()
    assert again.lease.login != "stale"


async def test_what_no_row_refers_to_is_dropped_and_lookalikes_are_not(here: Site, bench: Bench) -> None:
    await ready(bench)
    before = names_on(here)
    prefix, stamp = here.settings.prefix, f"freshdb:{bench.at.id}"
    orphan, lookalike = f"{prefix}_d_0123456789ab_1", f"{prefix}_d_ba9876543210_1"
    execute(here.dsns[0], f"create role {orphan}")
    execute(here.dsns[0], f"comment on role {orphan} is '{stamp}'")
    execute(here.dsns[0], f"create database {orphan} owner {orphan}")
    execute(here.dsns[0], f"create database {lookalike}")
    try:
        await bench.reconciler.run_once()
        assert names_on(here) == before | {lookalike}
    finally:
        execute(here.dsns[0], f"drop database {lookalike}")


async def test_a_ready_database_that_somebody_dropped_is_made_anew(here: Site, bench: Bench) -> None:
    await ready(bench)
    held = await bench.acquire()
    await bench.leases.release(held.lease.id, principal="test")
    await bench.janitor.run_once()
    victims = sorted(name for name in names_on(here) if "_d_" in name)
    execute(here.dsns[0], f"drop database {victims[0]} with (force)")
    execute(here.dsns[0], f"drop role if exists {victims[0]}")
    await bench.reconciler.run_once()
    assert (await bench.states())["dirty"] == 1
    await bench.janitor.run_once()
    assert (await bench.states()).keys() == {"ready"}


async def test_a_build_from_sql_whose_replica_died_is_done_by_another(
    here: Site, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with replica(here) as dead:
        monkeypatch.setattr(dead.builds, "begin", lambda _: None)  # it died before it began
        await dead.templates.register(
            RegisterRequest("t", None, ["create table t (id int)"], [], 60), wait_seconds=0
        )
    await bench.reconciler.run_once()
    assert (await bench.templates.find("t")).attempt == 1  # its replica may still be at it
    execute(here.control, "update templates set build_deadline_at = now()")
    await bench.reconciler.run_once()
    template = await bench.templates.find("t", wait_seconds=30)
    assert template.state == "ready"
    assert template.attempt == 2


async def test_a_server_that_is_away_costs_its_databases_nothing(bench: Bench) -> None:
    await ready(bench)
    held = await bench.acquire()
    await bench.given_back(held)
    server = bench.at.servers.pop("pg18")
    await bench.janitor.run_once()
    assert (await bench.states())["dirty"] == 1
    bench.at.servers["pg18"] = server
    await bench.janitor.run_once()
    assert (await bench.states()).keys() == {"ready"}
