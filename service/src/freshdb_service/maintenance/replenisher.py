"""Keeps pools filled: creates databases ahead of demand (``pool_sizing``), and never more than ``max_size``.

It also marks databases that were idle for long, drops marked ones, and prepares schema pools. If a database of a pool could
not be created, the pool gets no new one while the failed one is shown (``failed_seconds``), so that a broken template does
not keep the servers busy.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from itertools import cycle
from time import monotonic
from uuid import UUID

from freshdb_service.errors import FreshdbError, IsolationUnsupported
from freshdb_service.leasing.acquire import Acquirer
from freshdb_service.lifecycle import DatabaseState, Isolation, TemplateState
from freshdb_service.maintenance.pool_sizing import PoolSizing
from freshdb_service.observability.metrics.gauges import PoolGauges, ServerGauges
from freshdb_service.pooling.claim_renewal import renewed
from freshdb_service.pooling.reset_jobs import ResetJobs
from freshdb_service.pooling.worker_pool import WorkerPool
from freshdb_service.postgres import prepare_shared
from freshdb_service.redis.queue import QueuePosition
from freshdb_service.resources import Resources
from freshdb_service.store import databases as store_databases
from freshdb_service.store import pools as store_pools
from freshdb_service.store.rows import PoolRow

_RETRY_SECONDS = 5.0
_PAUSE_SECONDS = 0.05
_PAUSE_RATIO = 8
"""Inspecting many pools takes long, most of all on a busy machine. At most an eighth of the time is spent on it. Between two
inspections, missing databases are created."""
_MAX_INSPECTION_SECONDS = 0.05


@dataclass(slots=True)
class _Shortage:
    """A pool with too few databases.

    Attributes:
        pool_id: the pool.
        missing: number of databases to create.
        enough: number of databases, ready or to be ready soon, that the pool should have.
    """

    pool_id: UUID
    missing: int
    enough: int


class Replenisher:
    """One round: prepare, drop, shrink, fill."""

    def __init__(
        self,
        resources: Resources,
        reset_jobs: ResetJobs,
        acquiring: Acquirer,
        *,
        wake: asyncio.Event | None = None,
    ) -> None:
        self._resources = resources
        self._reset_jobs = reset_jobs
        self._acquiring = acquiring
        self._wake = wake
        self._pool_sizing = PoolSizing()
        self._drop_first = cycle((False, True))
        self._inspected_at = -_PAUSE_SECONDS
        self._inspection_seconds = 0.0

    async def run_once(self) -> None:
        """Bring every pool to its target size."""
        workers = WorkerPool(
            self._resources.settings.provision_concurrency * len(self._resources.servers),
            self._resources.stopping,
        )
        while True:
            await self._pause()
            await self._note_demand()
            await self._prepare()
            shortages = await self._inspect()
            self._inspection_seconds = min(_MAX_INSPECTION_SECONDS, monotonic() - self._inspected_at)
            await self._work(workers, shortages)
            if not await workers.slot_freed(self._wake):
                return

    async def _pause(self) -> None:
        """Wait until the next inspection of all pools is due, however many wake-ups there are."""
        await asyncio.sleep(max(0.0, self._next_inspection_at - monotonic()))
        self._inspected_at = monotonic()
        if self._wake is not None:
            self._wake.clear()

    @property
    def _next_inspection_at(self) -> float:
        return self._inspected_at + max(_PAUSE_SECONDS, _PAUSE_RATIO * self._inspection_seconds)

    async def _note_demand(self) -> None:
        asked, self._acquiring.requested = self._acquiring.requested, set()
        if asked:
            async with self._resources.store.statement() as connection:
                await store_pools.note_acquired(connection, list(asked))

    async def _prepare(self) -> None:
        """Create the blueprints of new schema pools, or store the reasons why the template does not support it."""
        while not self._resources.stopping.is_set():
            async with self._resources.store.statement() as connection:
                pool = await store_pools.claim_preparation(connection, self._resources.settings.claim_seconds)
            if pool is None or pool.template_database is None:
                return
            try:
                async with self._claim_renewed(pool):
                    blueprint = await prepare_shared(
                        self._resources.server(pool.server), pool.id, pool.template_database
                    )
            except IsolationUnsupported as error:
                async with self._resources.store.statement() as connection:
                    await store_pools.prepared(connection, pool.id, refusal=error.reasons)
            except FreshdbError as error:
                async with self._resources.store.statement() as connection:
                    await store_pools.prepared(
                        connection, pool.id, error=error.message, retry_seconds=_RETRY_SECONDS
                    )
            else:
                async with self._resources.store.statement() as connection:
                    await store_pools.prepared(connection, pool.id, blueprint=blueprint.to_json())
            await self._resources.queue.wake(pool.id)

    def _claim_renewed(self, pool: PoolRow) -> AbstractAsyncContextManager[None]:
        async def extend() -> bool:
            async with self._resources.store.statement() as connection:
                return await store_pools.extend_preparation(connection, pool.id, claim_seconds)

        claim_seconds = self._resources.settings.claim_seconds
        return renewed(f"the preparation of pool {pool.id}", extend, claim_seconds=claim_seconds)

    async def _inspect(self) -> deque[_Shortage]:
        """Find the pools with too few databases, and mark the surplus of the others to be dropped."""
        async with self._resources.store.statement() as connection:
            pools = await store_pools.listing(connection)
            counts = await store_databases.counts(connection)
            load = await store_pools.load(connection)
        shown: list[PoolGauges] = []
        shortages: deque[_Shortage] = deque()
        self._pool_sizing.forget({pool.id for pool in pools})
        places = await self._resources.queue.places([pool.id for pool in pools])
        for pool, place in zip(pools, places, strict=True):
            held = counts.get(pool.id, {})
            target = self._pool_sizing.target(
                pool.id,
                min_ready=pool.min_ready,
                max_size=pool.max_size,
                waiting=place.wanted,
                now=monotonic(),
            )
            shown.append(_facts(pool, held, place, target))
            self._resources.history.saw(pool.id, held, place.waiting)
            if pool.template_state is not TemplateState.READY or pool.server not in self._resources.servers:
                continue
            if pool.isolation is Isolation.SCHEMA and pool.blueprint is None:
                continue
            room = pool.max_size - sum(held.values()) + held.get(DatabaseState.DROPPING, 0)
            if room < 0:  # max_size was lowered
                async with self._resources.store.statement() as connection:
                    await store_databases.shrink(connection, pool.id, -room, idle_seconds=0)
                continue
            enough = max(target, place.wanted)
            missing = min(_missing(held, enough), room)
            if missing > 0 and load[pool.server][1] < self._resources.settings.max_disk_bytes:
                shortages.append(_Shortage(pool.id, missing, enough))
            elif (surplus := held.get(DatabaseState.READY, 0) - target) > 0:
                async with self._resources.store.statement() as connection:
                    await store_databases.shrink(connection, pool.id, surplus, idle_seconds=pool.idle_seconds)
        self._resources.metrics.show(shown, self._servers(load))
        return shortages

    async def _work(self, workers: WorkerPool, shortages: deque[_Shortage]) -> None:
        """Create missing databases and drop marked ones, as worker slots become free, until the next inspection."""
        dropping = True
        while True:
            if (
                dropping and workers.free and next(self._drop_first)
            ):  # at every second time, however many databases are missing
                dropping = await self._drop(1, workers) == 1
            while shortages and (free := workers.free):
                shortage = shortages.popleft()
                wanted = min(shortage.missing, -(-free // (len(shortages) + 1)))
                if await self._create(shortage, wanted, workers) == wanted < shortage.missing:
                    shortages.append(replace(shortage, missing=shortage.missing - wanted))
            if dropping and (free := workers.free):
                dropping = await self._drop(free, workers) == free
            left = self._next_inspection_at - monotonic()
            more = shortages or dropping
            if not more or left <= 0 or not await workers.slot_freed(within_seconds=left):
                return

    async def _create(self, shortage: _Shortage, wanted: int, workers: WorkerPool) -> int:
        settings = self._resources.settings
        async with self._resources.store.transaction() as connection:
            planned = await store_databases.plan(
                connection,
                shortage.pool_id,
                wanted,
                enough=shortage.enough,
                max_databases=settings.max_databases,
                claim_seconds=settings.claim_seconds,
            )
        for row in planned:
            workers.submit(self._reset_jobs.provision(row))
        return len(planned)

    async def _drop(self, most: int, workers: WorkerPool) -> int:
        settings = self._resources.settings
        async with self._resources.store.statement() as connection:
            claimed = await store_databases.claim_dropping(
                connection,
                list(self._resources.servers),
                most,
                claim_seconds=settings.claim_seconds,
                failed_seconds=settings.failed_seconds,
            )
        for row in claimed:
            workers.submit(self._reset_jobs.drop(row))
        return len(claimed)

    def _servers(self, load: Mapping[str, tuple[int, int]]) -> list[ServerGauges]:
        most = self._resources.settings
        return [
            ServerGauges(name, databases, most.max_databases, disk_bytes, most.max_disk_bytes)
            for name, (databases, disk_bytes) in load.items()
        ]


def _facts(pool: PoolRow, held: Mapping[DatabaseState, int], place: QueuePosition, target: int) -> PoolGauges:
    """Return the values of a pool's gauges."""
    return PoolGauges(
        template=pool.template,
        isolation=pool.isolation,
        databases=held,
        waiting=place.waiting,
        queue_age_seconds=place.age_seconds,
        ready_target=target,
        min_ready=pool.min_ready,
        max_size=pool.max_size,
    )


def _missing(held: Mapping[DatabaseState, int], enough: int) -> int:
    """Return how many more databases a pool needs for its target, or for its waiters."""
    if held.get(DatabaseState.FAILED):
        return 0
    return enough - sum(held.get(state, 0) for state in store_databases.SUPPLY)
