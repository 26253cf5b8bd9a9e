"""After any crash, every database becomes ready again or is dropped, and no object of freshdb is left over."""

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
from freshdb_service.leasing import leases
from freshdb_service.leasing.acquire import Granted
from freshdb_service.leasing.leases import Leases
from freshdb_service.lifecycle import DatabaseState, LeaseState
from freshdb_service.pooling.reset_jobs import ResetJobs
from freshdb_service.postgres import (
    CleaningEngine,
    CopySource,
    Fenced,
    Leftovers,
    ResetOutcome,
    Server,
    UsedDatabase,
)
from freshdb_service.store import databases as store_databases
from freshdb_service.store import leases as store_leases
from freshdb_service.store import reset_claims
from freshdb_service.templates.registry import RegisterRequest
from tests.integration.installations import Bench, Installation, names_on, new_installation, replica
from tests.limits import LIMIT_SECONDS
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


async def test_emptied_redis_loses_no_lease_and_ends_none_early(bench: Bench, redis_url: str) -> None:
    await ready(bench)
    held = await bench.acquire()
    await bench.reaper.run_once()
    async with raw(redis_url) as redis:
        await redis.flushall()
    renewed = await bench.leases.renew(held.lease.id, principal="test", ttl_seconds=None)
    assert renewed.ttl_seconds == pytest.approx(300, abs=2)
    async with raw(redis_url) as redis:
        await redis.flushall()
    await bench.reaper.run_once()  # restores the deadlines
    shown = await bench.leases.show(held.lease.id)
    assert shown.expires_at is not None
    assert (shown.expires_at - shown.lease.granted_at).total_seconds() >= 299
    await bench.reaper.run_once()
    assert (await bench.leases.get(held.lease.id)).state == "active"


async def test_redis_restored_from_old_snapshot_ends_no_lease(bench: Bench, redis_url: str) -> None:
    """Redis was restarted from a snapshot, or failed over to a lagging replica. Heartbeats are not refused."""
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
async def test_heartbeat_does_not_revive_lease_that_ends_during_restore(
    bench: Bench, redis_url: str, monkeypatch: pytest.MonkeyPatch, *, forgets: bool
) -> None:
    await ready(bench)
    held = await bench.acquire()
    await bench.reaper.run_once()
    original = store_leases.live

    async def live_and_then_it_ends(
        connection: AsyncConnection, lease_id: UUID | None = None
    ) -> list[store_leases.LiveLease]:
        there = await original(connection, lease_id)
        assert [one.id for one in there] == [held.lease.id]
        monkeypatch.undo()
        await bench.leases.expire(held.lease.id)  # the reaper continues
        if forgets:
            await redis.flushall()
        return there

    async with raw(redis_url) as redis:
        await redis.zadd(bench.at.redis.key("deadlines"), {str(held.lease.id): 1})
        assert (await bench.at.deadlines.due()).lease_ids == [held.lease.id]  # the reaper has taken it
        monkeypatch.setattr(store_leases, "live", live_and_then_it_ends)
        with pytest.raises(LeaseEnded):
            await bench.leases.renew(held.lease.id, principal="test", ttl_seconds=None)
    assert await bench.at.deadlines.expiry([held.lease.id]) == [None]


async def test_deadline_of_lease_that_was_never_granted_is_removed_in_second_round(
    bench: Bench, redis_url: str
) -> None:
    await ready(bench)
    held = await bench.acquire()
    await bench.at.deadlines.admit(  # by a replica that died before the grant
        held.lease.pool_id, [uuid4()], ttl_seconds=300, max_ttl_seconds=300, principal="test"
    )
    await bench.reconciler.run_once()
    assert len(await bench.at.deadlines.noted()) == 2  # the grant may follow
    await bench.reconciler.run_once()
    assert await bench.at.deadlines.noted() == {held.lease.id}
    async with raw(redis_url) as redis:
        assert await redis.zcard(bench.at.redis.key("deadlines")) == 1


async def test_second_release_removes_deadline_that_the_first_one_left(bench: Bench) -> None:
    await ready(bench)
    held = await bench.acquire()
    await store_leases.end(bench.at.store, held.lease.id, LeaseState.RELEASED, principal="test")
    assert await bench.at.deadlines.noted() == {held.lease.id}
    await bench.leases.release(held.lease.id, principal="test")
    assert await bench.at.deadlines.noted() == set()


async def test_ready_database_dropped_by_hand_is_rebuilt_while_its_login_exists(
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


async def test_lease_without_deadline_gets_one(bench: Bench, redis_url: str) -> None:
    await ready(bench)
    held = await bench.acquire()
    async with raw(redis_url) as redis:
        await redis.delete(bench.at.redis.key("deadlines"))
    await bench.reconciler.run_once()
    assert (await bench.leases.show(held.lease.id)).expires_at is not None


async def test_expired_deadline_without_lease_is_removed(bench: Bench, redis_url: str) -> None:
    await bench.reaper.run_once()
    ghost = uuid4()
    async with raw(redis_url) as redis:
        await redis.zadd(bench.at.redis.key("deadlines"), {str(ghost): 1})
        await bench.reaper.run_once()
        assert await redis.zcard(bench.at.redis.key("deadlines")) == 0
        assert await redis.zcard(bench.at.redis.key("expiring")) == 0


async def test_lease_taken_by_dead_reaper_is_ended_by_another(bench: Bench, redis_url: str) -> None:
    await ready(bench)
    held = await bench.acquire()
    await bench.reaper.run_once()
    async with raw(redis_url) as redis:
        await redis.zadd(bench.at.redis.key("deadlines"), {str(held.lease.id): 1})
        due = await bench.at.deadlines.due()  # here the first reaper died
        assert due.lease_ids == [held.lease.id]
        await redis.zadd(bench.at.redis.key("expiring"), {str(held.lease.id): 1})  # a while ago
    await bench.reaper.run_once()
    assert (await bench.leases.get(held.lease.id)).state == "expired"
    await bench.janitor.run_once()
    assert await bench.states() == {"ready": 2}


async def test_leases_are_ended_in_next_round_after_control_plane_was_unavailable(
    installation: Installation, bench: Bench, redis_url: str
) -> None:
    await ready(bench)
    held, other = await bench.acquire(), await bench.acquire()
    await bench.reaper.run_once()
    await due_now(bench, redis_url, held, other)
    control = f"{installation.settings.prefix}_control"
    execute(installation.dsns[0], f'ALTER DATABASE "{control}" ALLOW_CONNECTIONS false')
    execute(
        installation.dsns[0],
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{control}'",
    )
    with pytest.raises(BackendUnavailable):
        await bench.reaper.run_once()
    execute(installation.dsns[0], f'ALTER DATABASE "{control}" ALLOW_CONNECTIONS true')
    await bench.reaper.run_once()
    assert [(await bench.leases.get(one.lease.id)).state for one in (held, other)] == ["expired"] * 2


async def test_lease_that_cannot_be_ended_is_put_off_alone(
    installation: Installation, bench: Bench, redis_url: str
) -> None:
    await ready(bench)
    stuck, other = await bench.acquire(), await bench.acquire()
    await bench.reaper.run_once()
    execute(
        installation.control,
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
    assert [(await bench.leases.get(one.lease.id)).state for one in (stuck, other)] == ["active", "expired"]
    async with raw(redis_url) as redis:
        assert await redis.zrange(bench.at.redis.key("expiring"), 0, -1) == [str(stuck.lease.id).encode()]


async def test_lease_whose_row_is_locked_delays_no_other_due_lease(
    postgres_18: PostgresServer, redis_url: str
) -> None:
    installation = new_installation([postgres_18], redis_url, min_ready=12)
    async with replica(installation) as bench:
        await bench.template()
        await bench.replenisher.run_once()
        locked, *others = [await bench.acquire() for _ in range(12)]
        await bench.reaper.run_once()
        await due_now(bench, redis_url, locked, *others)
        async with await psycopg.AsyncConnection.connect(installation.control) as contender:
            await contender.execute("SELECT FROM leases WHERE id = %s FOR UPDATE", [locked.lease.id])
            round_of_it = asyncio.create_task(bench.reaper.run_once())
            async with asyncio.timeout(LIMIT_SECONDS):
                while await bench.at.deadlines.noted() != {locked.lease.id}:
                    await asyncio.sleep(0)
            assert not round_of_it.done()
        await round_of_it
        assert (await bench.leases.get(locked.lease.id)).state == "expired"


async def due_now(bench: Bench, redis_url: str, *held: Granted) -> None:
    """Make leases due, in this order."""
    async with raw(redis_url) as redis:
        ends = {str(one.lease.id): when for when, one in enumerate(held, start=1)}
        await redis.zadd(bench.at.redis.key("deadlines"), ends)


async def test_lease_put_off_by_reaper_lives_when_its_deadline_was_restored(
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
    await bench.reaper.run_once()  # another reaper restores the deadlines
    await bench.at.deadlines.hand_on(due.lease_ids)
    await bench.reaper.run_once()
    assert (await bench.leases.get(held.lease.id)).state == "active"


async def test_database_of_worker_that_died_during_reset_is_reset_by_another(
    installation: Installation, bench: Bench
) -> None:
    await ready(bench)
    held = await bench.acquire()
    await bench.released_dirty(held)
    [claimed] = await reset_claims.claim_dirty(bench.at.store, ["pg18"], 1, claim_seconds=60)
    assert claimed.row.state is DatabaseState.RESETTING  # here its worker died
    await bench.reconciler.run_once()
    assert (await bench.states())["resetting"] == 1  # its worker may be alive
    execute(installation.control, "update databases set claimed_until = now() where state = 'resetting'")
    await bench.reconciler.run_once()
    assert (await bench.states())["dirty"] == 1
    await bench.janitor.run_once()
    assert (await bench.states()).keys() == {"ready"}


async def test_lease_of_worker_that_died_during_reset_in_place_can_be_reset_again(
    installation: Installation, bench: Bench
) -> None:
    await ready(bench)
    held = await bench.acquire()
    claimed = await reset_claims.claim_leased(bench.at.store, held.lease.id, "test", claim_seconds=60)
    assert claimed is not None  # here its worker died
    with pytest.raises(Conflict, match="being reset"):
        await bench.leases.reset(held.lease.id, principal="test")
    with pytest.raises(Conflict, match="being reset"):
        await bench.leases.keep(held.lease.id, principal="test", ttl_seconds=60, reason=None)
    assert (await bench.leases.get(held.lease.id)).state == "active"
    execute(installation.control, "update databases set claimed_until = now() where state = 'resetting'")
    await bench.reconciler.run_once()
    assert (await bench.states())["leased"] == 1
    again = await bench.leases.reset(held.lease.id, principal="test")
    assert again.lease.generation == held.lease.generation + 2
    assert again.lease.password is not None
    await bench.leases.release(held.lease.id, principal="test")
    await bench.janitor.run_once()
    assert (await bench.states()).keys() == {"ready"}


class HeldUp(CleaningEngine):
    """Fences only when ``go`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.began, self.go = asyncio.Event(), asyncio.Event()

    async def fence(self, server: Server, used: UsedDatabase, origin: CopySource, generation: int) -> Fenced:
        self.began.set()
        await self.go.wait()
        return await super().fence(server, used, origin, generation)


async def test_reset_finishes_after_caller_hangs_up_during_fence(bench: Bench) -> None:
    await ready(bench)
    held, engine = await bench.acquire(), HeldUp()
    reset_jobs = ResetJobs(bench.at, engine)
    releasing = asyncio.create_task(Leases(bench.at, reset_jobs).release(held.lease.id, principal="test"))
    await engine.began.wait()
    releasing.cancel()
    await asyncio.wait({releasing})
    assert await bench.states() == {"ready": 1, "resetting": 1}
    engine.go.set()
    await reset_jobs.resets.finish()
    assert await bench.states() == {"ready": 2}


async def test_release_is_answered_without_leftovers_when_fence_takes_too_long(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "_FENCE_SECONDS", 0.01)
    await ready(bench)
    held, engine = await bench.acquire(), HeldUp()
    reset_jobs = ResetJobs(bench.at, engine)
    released = await Leases(bench.at, reset_jobs).release(held.lease.id, principal="test")
    assert (released.lease.state, released.leftovers) == ("released", None)
    assert await bench.at.deadlines.noted() == set()
    engine.go.set()
    await reset_jobs.resets.finish()
    assert await bench.states() == {"ready": 2}


class FinishHeldUp(CleaningEngine):
    """Finishes only when ``go`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()

    async def fence(self, server: Server, used: UsedDatabase, origin: CopySource, generation: int) -> Fenced:
        fenced = await super().fence(server, used, origin, generation)

        async def finish() -> ResetOutcome:
            await self.go.wait()
            return await fenced.finish()

        return Fenced(fenced.leftovers, finish)


async def test_release_is_answered_after_fence_and_before_reset_ends(
    installation: Installation, bench: Bench
) -> None:
    await ready(bench)
    held, engine = await bench.acquire(), FinishHeldUp()
    reset_jobs = ResetJobs(bench.at, engine)
    url = psycopg.conninfo.make_conninfo(
        installation.dsns[0],
        dbname=held.lease.database_name,
        user=held.lease.login,
        password=held.lease.password,
    )
    with psycopg.connect(url, autocommit=True):
        released = await Leases(bench.at, reset_jobs).release(held.lease.id, principal="test")
    assert released.leftovers == Leftovers(connections=1)
    assert await bench.states() == {"ready": 1, "resetting": 1}
    engine.go.set()
    await reset_jobs.resets.finish()
    assert await bench.states() == {"ready": 2}


class NotNow(CleaningEngine):
    """Raises ``BackendUnavailable`` instead of fencing."""

    async def fence(self, *_: object) -> Fenced:
        raise BackendUnavailable("not now")


async def test_release_closes_login_when_fence_fails(installation: Installation, bench: Bench) -> None:
    await ready(bench)
    held = await bench.acquire()
    reset_jobs = ResetJobs(bench.at, NotNow())
    released = await Leases(bench.at, reset_jobs).release(held.lease.id, principal="test")
    assert released.leftovers == Leftovers()
    with psycopg.connect(installation.dsns[0]) as superuser:
        query = "select rolcanlogin from pg_roles where rolname = %s"
        assert superuser.execute(query, [held.lease.login]).fetchone() == (False,)
    await reset_jobs.resets.finish()
    assert (await bench.states())["dirty"] == 1
    execute(installation.control, "update databases set not_before = null")
    await bench.janitor.run_once()
    assert await bench.states() == {"ready": 2}


async def test_resets_in_place_wait_for_slots(postgres_18: PostgresServer, redis_url: str) -> None:
    async with replica(
        new_installation([postgres_18], redis_url, provision_concurrency=1, min_ready=6, idle_sessions=0)
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


async def test_lease_that_ends_during_reset_in_place_leaves_clean_or_dirty_database(bench: Bench) -> None:
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


async def test_database_of_worker_that_died_during_provisioning_is_dropped(
    installation: Installation, bench: Bench
) -> None:
    await ready(bench)
    [health] = await bench.pools.listing()
    async with bench.at.store.transaction() as connection:
        await store_databases.plan(
            connection, health.pool.id, 1, enough=9, max_databases=10, claim_seconds=60
        )
    execute(installation.control, "update databases set claimed_until = now() where state = 'creating'")
    await bench.reconciler.run_once()
    assert (await bench.states())["dropping"] == 1
    await bench.replenisher.run_once()
    assert (await bench.states()).keys() == {"ready"}


async def test_worker_that_lost_its_claim_changes_no_row(installation: Installation, bench: Bench) -> None:
    await ready(bench)
    held = await bench.acquire()
    await bench.released_dirty(held)
    [paused] = await reset_claims.claim_dirty(bench.at.store, ["pg18"], 1, claim_seconds=60)
    execute(installation.control, "update databases set claimed_until = now() where state = 'resetting'")
    await bench.reconciler.run_once()
    await bench.janitor.run_once()  # another worker resets it
    stale = reset_claims.ResetResult("stale", None, "stale", "stale")
    assert not await reset_claims.make_ready(bench.at.store, paused.row, stale)
    async with bench.at.store.statement() as connection:
        assert not await store_databases.move(connection, paused.row, DatabaseState.FAILED)
        assert not await store_databases.extend_claim(connection, paused.row, 60)
    again = await bench.acquire()
    assert again.lease.login != "stale"


async def test_stamped_object_without_row_is_dropped_and_lookalike_stays(
    installation: Installation, bench: Bench
) -> None:
    await ready(bench)
    before = names_on(installation)
    prefix, stamp = installation.settings.prefix, f"freshdb:{bench.at.id}"
    orphan, lookalike = f"{prefix}_d_0123456789ab_1", f"{prefix}_d_ba9876543210_1"
    execute(installation.dsns[0], f"create role {orphan}")
    execute(installation.dsns[0], f"comment on role {orphan} is '{stamp}'")
    execute(installation.dsns[0], f"create database {orphan} owner {orphan}")
    execute(installation.dsns[0], f"create database {lookalike}")
    try:
        await bench.reconciler.run_once()
        assert names_on(installation) == before | {lookalike}
    finally:
        execute(installation.dsns[0], f"drop database {lookalike}")


async def test_ready_database_dropped_with_its_role_is_rebuilt(
    installation: Installation, bench: Bench
) -> None:
    await ready(bench)
    held = await bench.acquire()
    await bench.leases.release(held.lease.id, principal="test")
    await bench.janitor.run_once()
    victims = sorted(name for name in names_on(installation) if "_d_" in name)
    execute(installation.dsns[0], f"drop database {victims[0]} with (force)")
    execute(installation.dsns[0], f"drop role if exists {victims[0]}")
    await bench.reconciler.run_once()
    assert (await bench.states())["dirty"] == 1
    await bench.janitor.run_once()
    assert (await bench.states()).keys() == {"ready"}


async def test_sql_build_of_dead_replica_is_repeated_by_another(
    installation: Installation, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with replica(installation) as dead:
        monkeypatch.setattr(dead.builds, "begin", lambda _: None)  # the replica died before the build
        await dead.templates.register(
            RegisterRequest("t", None, ["create table t (id int)"], [], 60), wait_seconds=0
        )
    await bench.reconciler.run_once()
    assert (await bench.templates.find("t")).attempt == 1  # its replica may be alive
    execute(installation.control, "update templates set build_deadline_at = now()")
    await bench.reconciler.run_once()
    template = await bench.templates.find("t", wait_seconds=30)
    assert template.state == "ready"
    assert template.attempt == 2


async def test_dirty_database_of_unmanaged_server_waits_and_is_reset_later(bench: Bench) -> None:
    await ready(bench)
    held = await bench.acquire()
    await bench.released_dirty(held)
    server = bench.at.servers.pop("pg18")
    await bench.janitor.run_once()
    assert (await bench.states())["dirty"] == 1
    bench.at.servers["pg18"] = server
    await bench.janitor.run_once()
    assert (await bench.states()).keys() == {"ready"}
