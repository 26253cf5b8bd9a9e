"""Growth of the load on the control plane and Redis, per lease and per loop run, with the number of databases.

The store's own functions run over rows like those of a real control plane: 100 pools on 100 servers, databases in all
states, one in twenty leased, and three ended leases for each. The servers do not exist. Redis has a deadline for each
database and one waiter for ten. The figures are the processor seconds of the PostgreSQL session, or of Redis, and of the
caller. They do not depend on other programs on the machine.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

from pydantic import BaseModel
from sqlalchemy import text

from freshdb_service import migrations
from freshdb_service.config import Settings
from freshdb_service.embedded import EmbeddedPostgres, EmbeddedRedis
from freshdb_service.lifecycle import LeaseState
from freshdb_service.redis import queue as queues
from freshdb_service.redis.connection import RedisConnection
from freshdb_service.redis.deadlines import Deadline, Deadlines
from freshdb_service.redis.queue import Queue
from freshdb_service.redis.shared_work import SharedWork
from freshdb_service.redis.wakeups import Wakeups
from freshdb_service.store import databases, grant, leases, pools, reset_claims, templates, worker_locks
from freshdb_service.store.connection import Connection, Store
from tests.benchmarks.results import Run
from tests.benchmarks.running import data_directory

POOLS: Final = 100
HISTORY: Final = 3
"""Ended leases of each database."""
_SERVERS: Final = [f"s{number}" for number in range(1, POOLS + 1)]
_LONGEST_QUEUE: Final = 2_000
_DEFAULTS: Final = Settings()
_ONCE_EVERY: Final = {
    name: getattr(_DEFAULTS, f"{name}_seconds")
    for name in ("reaper", "janitor", "replenisher", "reconciler", "deaths")
}


class Cost(BaseModel):
    """Cost of one call.

    Attributes:
        what: name of the call.
        there: number of databases, or of deadlines.
        per_second: rate of the call on each idle replica. 0 means once per lease.
        backend_seconds: processor time of the control plane's session, or of Redis.
        caller_seconds: processor time of the replica.
        blocks: accessed blocks of the control plane's tables and indexes.
        by_one: one replica makes the call for all.
    """

    what: str
    backend: str
    there: int
    per_second: float
    backend_seconds: float
    caller_seconds: float
    blocks: float = 0.0
    by_one: bool = False


@dataclass(frozen=True, slots=True)
class _Call:
    what: str
    run: Callable[[], Awaitable[object]]
    per_second: float = 0.0
    times: int = 100
    by_one: bool = False


async def measure(run: Run) -> list[Cost]:
    """Fill a control plane and Redis, and measure each call, beginning with the smallest size."""
    sizes = (1_000,) if run.quick else (1_000, 10_000, 100_000)
    found: list[Cost] = []
    with data_directory() as data:
        for there in sizes:
            run.log_progress(f"{there} databases")
            async with control_plane(data / f"control-{there}", there) as store:
                found += await _in_postgres(store, there)
            run.log_progress(f"{there} deadlines")
            found += await _in_redis(data / f"redis-{there}", there)
    return found


def processor_seconds(pid: int) -> float:
    """Return the processor time of a process in nanosecond resolution, by its Linux clock (``clock_getcpuclockid``)."""
    return time.clock_gettime(~pid << 3 | 2)


@asynccontextmanager
async def control_plane(data: Path, there: int) -> AsyncIterator[Store]:
    """Create a control plane with this number of databases, and one connection to it."""
    async with AsyncExitStack() as stack:
        server = EmbeddedPostgres(data)
        stack.push_async_callback(server.stop)
        store = Store(await server.start(), pool_size=1, answer_seconds=600)
        stack.push_async_callback(store.close)
        await migrations.upgrade(store.engine)
        await fill(store, there)
        yield store


async def fill(store: Store, there: int) -> None:
    """Insert servers, templates, pools, databases and leases."""
    async with store.statement() as connection:
        for statement in _FILL.split(";"):
            await connection.execute(
                text(statement), {"pools": POOLS, "each": there // POOLS, "history": HISTORY}
            )


async def _in_postgres(store: Store, there: int) -> list[Cost]:
    async with store.statement() as connection:
        pid = (await connection.execute(text("select pg_backend_pid()"))).scalar_one()
        pool_ids: Sequence[UUID] = (await connection.execute(text("select id from pools"))).scalars().all()
    turns = _Turns(store, pool_ids)
    calls = [
        _Call("grant", turns.grant),
        _Call("end", turns.end),
        _Call("mark ready", turns.ready),
        *_rounds(store),
    ]
    return [await _cost(call, "control", there, pid, store) for call in calls]


class _Turns:
    """Grants leases, ends them, and makes their databases ready again."""

    def __init__(self, store: Store, pool_ids: Sequence[UUID]) -> None:
        self._store = store
        self._pool_ids = pool_ids
        self._granted: list[UUID] = []
        self._ended: list[reset_claims.ClaimedReset] = []

    async def grant(self) -> None:
        lease_id, pool_id = uuid4(), self._pool_ids[len(self._granted) % len(self._pool_ids)]
        terms = grant.GrantTerms("ci", 3600)
        share = grant.GrantShare(pool_id, (lease_id,), False, 0, 300, {"name": "job"})
        assert await grant.grant(self._store, terms, [share])
        self._granted.append(lease_id)

    async def end(self) -> None:
        claim = leases.ResetClaim(600, _SERVERS)
        ended = await leases.end(
            self._store, self._granted.pop(), LeaseState.RELEASED, principal="ci", claim=claim
        )
        assert ended is not None
        assert ended.used is not None
        self._ended.append(ended.used)

    async def ready(self) -> None:
        used = self._ended.pop()
        clean = reset_claims.ResetResult(
            used.row.database_name or "", None, used.row.login or "", "secret", mark=used.mark
        )
        assert await reset_claims.make_ready(self._store, used.row, clean)


def _rounds(store: Store) -> list[_Call]:
    """Return the calls that every replica makes even without clients, with their rates."""

    def call(
        what: str,
        statement: Callable[[Connection], Awaitable[object]],
        loop: str,
        times: int = 10,
        *,
        by_one: bool = False,
    ) -> _Call:
        async def run() -> None:
            async with store.statement() as connection:
                await statement(connection)

        return _Call(what, run, 1 / _ONCE_EVERY[loop], times, by_one)

    async def dropping(connection: Connection) -> None:
        await databases.claim_dropping(connection, _SERVERS, 16, claim_seconds=5, failed_seconds=10)

    async def dirty() -> None:
        await reset_claims.claim_dirty(store, _SERVERS, 64, claim_seconds=5)

    async def rows_of_servers(connection: Connection) -> None:
        for server in _SERVERS:
            await templates.all_of_server(connection, server)
            await databases.listing(connection, server)
            await pools.all_of_server(connection, server)

    async def retired(connection: Connection) -> None:
        await templates.retire_unused(connection, 7 * 86_400)
        await templates.retired_without_databases(connection, kept_seconds=60)

    return [
        call("list pools", pools.listing, "replenisher"),
        call("count databases by pool and state", databases.counts, "replenisher"),
        call("count databases by server", pools.load, "replenisher"),
        call("claim databases to drop", dropping, "replenisher"),
        _Call("claim dirty databases", dirty, 1 / _ONCE_EVERY["janitor"], times=10),
        call("release claims", lambda connection: databases.release_claims(connection, []), "reaper"),
        call("find strays", databases.recover_strays, "reaper"),
        call("find dead workers", worker_locks.without_lock, "deaths"),
        call("prune ended leases", lambda connection: leases.prune(connection, 86_400), "reconciler"),
        call("list live leases", leases.live, "reconciler", by_one=True),
        call(
            f"list the objects of each of {POOLS} servers",
            rows_of_servers,
            "reconciler",
            times=3,
            by_one=True,
        ),
        call("retire unused templates", retired, "reconciler"),
    ]


async def _in_redis(data: Path, there: int) -> list[Cost]:
    async with AsyncExitStack() as stack:
        server = EmbeddedRedis(data)
        stack.push_async_callback(server.stop)
        redis = RedisConnection(await server.start(), uuid4(), timeout_seconds=60)
        stack.push_async_callback(redis.close)
        pid = int((data / "redis.pid").read_text())
        deadlines, queue = Deadlines(redis), Queue(redis, Wakeups(redis))
        lease_ids = [uuid4() for _ in range(there)]
        run_id = (await deadlines.due()).forgotten_in_run
        await deadlines.restore((Deadline(one, "ci", 3600, 7200) for one in lease_ids), run_id=run_id)
        # Waiters need not refresh their presence during this measurement.
        stack.callback(setattr, queues, "PRESENCE_SECONDS", queues.PRESENCE_SECONDS)
        queues.PRESENCE_SECONDS = 3600.0  # type: ignore[misc]
        waiting = _Queues(queue, there // 10)
        await waiting.refresh_presence()
        admitted: list[UUID] = []
        free_pool = uuid4()
        idle, shared_work = _Queues(queue, 0), SharedWork(redis)

        async def take_duties() -> None:
            for server in _SERVERS:
                await shared_work.mine(server, seconds=60)

        async def admit() -> None:
            admitted.append(uuid4())
            await deadlines.admit(
                free_pool, admitted[-1:], ttl_seconds=300, max_ttl_seconds=3600, principal="ci"
            )

        async def compare() -> None:
            await deadlines.noted()
            await deadlines.expiry(lease_ids)

        calls = [
            _Call("admit", admit),
            _Call("settle", lambda: deadlines.settle([admitted.pop()])),
            _Call("wake the first of a queue", lambda: queue.wake(waiting.longest)),
            _Call("heartbeat", lambda: deadlines.renew(lease_ids[-1], ttl_seconds=None, principal="ci")),
            _Call("take due leases", deadlines.due, 1 / _ONCE_EVERY["reaper"]),
            _Call(f"read {POOLS} empty queues", idle.read, 1 / _ONCE_EVERY["replenisher"], 10),
            _Call(
                f"claim the comparison of each of {POOLS} servers",
                take_duties,
                1 / _ONCE_EVERY["reconciler"],
                10,
            ),
            _Call(f"read {POOLS} queues with all waiters", waiting.read, 0.0, 10),
            _Call("refresh the presence of all waiters", waiting.refresh_presence, 0.0, 10),
            _Call(
                "compare all deadlines with the leases",
                compare,
                1 / _ONCE_EVERY["reconciler"],
                10,
                by_one=True,
            ),
        ]
        return [await _cost(call, "redis", there, pid) for call in calls]


class _Queues:
    """Waiters in the queues of many pools, in as few queues as can hold them."""

    def __init__(self, queue: Queue, waiters: int) -> None:
        self._queue = queue
        self._pools = [uuid4() for _ in range(POOLS)]
        self.longest = self._pools[0]
        self._lines = {
            pool: [
                queues.Waiter(pool, n + 1, 1, queue._wakeups.turn_of(f"w{n}"), uuid4().hex)
                for n in range(first, min(first + _LONGEST_QUEUE, waiters))
            ]
            for pool, first in zip(self._pools, range(0, waiters, _LONGEST_QUEUE), strict=False)
        }

    async def refresh_presence(self) -> None:
        for pool, line in self._lines.items():
            await self._queue._stay(pool, {waiter.name: waiter for waiter in line})

    async def read(self) -> None:
        await self._queue.places(self._pools)


async def _cost(call: _Call, backend: str, there: int, pid: int, store: Store | None = None) -> Cost:
    """Measure the average of one call, after its statement is prepared."""
    await call.run()
    blocks = await blocks_seen(store) if store else 0
    mine, theirs = time.process_time(), processor_seconds(pid)
    for _ in range(call.times):
        await call.run()
    mine, theirs = time.process_time() - mine, processor_seconds(pid) - theirs
    blocks = await blocks_seen(store) - blocks if store else 0
    return Cost(
        what=call.what,
        backend=backend,
        there=there,
        per_second=call.per_second,
        by_one=call.by_one,
        backend_seconds=theirs / call.times,
        caller_seconds=mine / call.times,
        blocks=blocks / call.times,
    )


async def blocks_seen(store: Store) -> int:
    """Return the number of blocks of the control plane's tables and indexes that were accessed so far."""
    async with store.statement() as connection:
        await connection.execute(text("select pg_stat_force_next_flush()"))
        found = await connection.execute(
            text("select blks_hit + blks_read from pg_stat_database where datname = current_database()")
        )
        return int(found.scalar_one())


_FILL: Final = """
set session_replication_role = replica;
insert into servers (name, host, port, version, adopted)
select 's' || n, '127.0.0.1', 6000 + n, 180000, true from generate_series(1, :pools) n;
insert into templates (id, name, fingerprint, state, server, build_seconds, database_name, ready_at)
select gen_random_uuid(), 'shop' || n, md5(n::text), 'ready', 's' || n, 600, 'freshdb_template_' || n, now()
from generate_series(1, :pools) n;
insert into pools (id, template_id, isolation, server, min_ready, max_size, idle_seconds)
select gen_random_uuid(), id, 'database', server, :each, :each, 300 from templates;
insert into databases (id, pool_id, server, state, generation, database_name, login, password, state_changed_at, lease_id,
                       claimed_until, not_before, mark)
select gen_random_uuid(), p.id, p.server, made.state, 10, 'freshdb_d_' || gen_random_uuid(),
       'freshdb_l_' || gen_random_uuid(), md5(random()::text), now() - random() * interval '5 minutes',
       CASE WHEN made.state = 'leased' THEN gen_random_uuid() END,
       CASE WHEN made.state = 'dropping' THEN now() + interval '1 hour' END,
       CASE WHEN made.state IN ('dirty', 'failed') THEN now() + interval '1 hour' END,
       (SELECT jsonb_object_agg('t' || t, jsonb_build_array(t, md5(t::text))) FROM generate_series(1, 30) t)
from pools p, generate_series(1, :each) n, LATERAL (SELECT CASE
    WHEN n % 20 = 0 THEN 'leased' WHEN n % 500 = 1 THEN 'dirty' WHEN n % 500 = 2 THEN 'dropping'
    WHEN n % 500 = 3 THEN 'failed' ELSE 'ready' END AS state) made;
insert into baselines (database_id, baseline) select id, mark from databases;
insert into leases (id, state, pool_id, database_id, generation, template_id, template, isolation, server, database_name,
                    login, principal, holder, labels, ttl_seconds, granted_at, max_expires_at)
select d.lease_id, 'active', d.pool_id, d.id, d.generation, p.template_id, 'shop', 'database', d.server, d.database_name,
       d.login, 'ci', '{}', '{}', 300, now(), now() + interval '1 day'
from databases d JOIN pools p ON p.id = d.pool_id WHERE d.state = 'leased';
insert into leases (id, state, pool_id, database_id, generation, template_id, template, isolation, server, database_name,
                    login, principal, holder, labels, ttl_seconds, granted_at, max_expires_at, ended_at)
select gen_random_uuid(), 'released', d.pool_id, d.id, n, p.template_id, 'shop', 'database', d.server, d.database_name,
       d.login, 'ci', '{}', '{}', 300, at, at + interval '1 hour', at + interval '10 seconds'
from databases d JOIN pools p ON p.id = d.pool_id, generate_series(1, :history) n,
     LATERAL (SELECT now() - interval '2 hours' * n + random() * interval '1 minute' AS at WHERE d.id IS NOT NULL) ended;
reset session_replication_role;
VACUUM ANALYZE
"""
