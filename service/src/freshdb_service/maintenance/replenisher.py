"""Keeps pools filled: as many ready ahead of time as they lately lacked (``headroom``), never more than ``max_size``.

Shrinks pools by what nobody used for a while, drops what is marked to be dropped, and prepares schema pools. A
pool in which making a database has just failed is left alone while the failed one is shown (``failed_seconds``), so that a
broken template does not keep the servers busy.
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
from freshdb_service.pooling.claim_renewal import kept
from freshdb_service.pooling.reset_jobs import ResetJobs
from freshdb_service.pooling.worker_pool import WorkerPool
from freshdb_service.postgres import prepare_shared
from freshdb_service.redis.queue import QueuePosition
from freshdb_service.resources import Resources
from freshdb_service.store import databases as store_databases
from freshdb_service.store import pools as store_pools
from freshdb_service.store.rows import PoolRow

_RETRY_SECONDS = 5.0
_REST_SECONDS = 0.05
_REST_RATIO = 8
"""Looking at many pools takes long, the more so where much else goes on: an eighth of the time goes into it, no more. In
between, what was seen to be lacking is made."""
_LONGEST_LOOK_SECONDS = 0.05


@dataclass(slots=True)
class _Lack:
    """What a pool was seen to lack.

    Attributes:
        pool_id: which.
        missing: how many databases.
        enough: how many it should have then, ready or coming.
    """

    pool_id: UUID
    missing: int
    enough: int


class Replenisher:
    """One round: prepare, drop, shrink, fill."""

    def __init__(
        self,
        resources: Resources,
        databases: ResetJobs,
        acquiring: Acquirer,
        *,
        wake: asyncio.Event | None = None,
    ) -> None:
        self._resources = resources
        self._databases = databases
        self._acquiring = acquiring
        self._wake = wake
        self._pool_sizing = PoolSizing()
        self._turns = cycle((False, True))
        self._looked_at = -_REST_SECONDS
        self._look_seconds = 0.0

    async def run_once(self) -> None:
        """Bring every pool to the size that it should have."""
        workers = WorkerPool(
            self._resources.settings.provision_concurrency * len(self._resources.servers),
            self._resources.stopping,
        )
        while True:
            await self._rest()
            await self._note_demand()
            await self._prepare()
            lacking = await self._look()
            self._look_seconds = min(_LONGEST_LOOK_SECONDS, monotonic() - self._looked_at)
            await self._work(workers, lacking)
            if not await workers.a_hand_free(self._wake):
                return

    async def _rest(self) -> None:
        """Let some time pass between two looks at all pools, however many callers ask for one."""
        await asyncio.sleep(max(0.0, self._look_at - monotonic()))
        self._looked_at = monotonic()
        if self._wake is not None:
            self._wake.clear()

    @property
    def _look_at(self) -> float:
        return self._looked_at + max(_REST_SECONDS, _REST_RATIO * self._look_seconds)

    async def _note_demand(self) -> None:
        asked, self._acquiring.asked_for = self._acquiring.asked_for, set()
        if asked:
            async with self._resources.store.statement() as connection:
                await store_pools.note_acquired(connection, list(asked))

    async def _prepare(self) -> None:
        """Make the blueprints of new schema pools, or find out why there can be none."""
        while not self._resources.stopping.is_set():
            async with self._resources.store.statement() as connection:
                pool = await store_pools.claim_preparation(connection, self._resources.settings.claim_seconds)
            if pool is None or pool.template_database is None:
                return
            try:
                async with self._claim_kept(pool):
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

    def _claim_kept(self, pool: PoolRow) -> AbstractAsyncContextManager[None]:
        async def extend() -> bool:
            async with self._resources.store.statement() as connection:
                return await store_pools.extend_preparation(connection, pool.id, claim_seconds)

        claim_seconds = self._resources.settings.claim_seconds
        return kept(f"the preparation of pool {pool.id}", extend, claim_seconds=claim_seconds)

    async def _look(self) -> deque[_Lack]:
        """See what pools lack, and mark what they have too much of."""
        async with self._resources.store.statement() as connection:
            pools = await store_pools.listing(connection)
            counts = await store_databases.counts(connection)
            load = await store_pools.load(connection)
        shown: list[PoolGauges] = []
        lacking: deque[_Lack] = deque()
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
                lacking.append(_Lack(pool.id, missing, enough))
            elif (surplus := held.get(DatabaseState.READY, 0) - target) > 0:
                async with self._resources.store.statement() as connection:
                    await store_databases.shrink(connection, pool.id, surplus, idle_seconds=pool.idle_seconds)
        self._resources.metrics.show(shown, self._servers(load))
        return lacking

    async def _work(self, workers: WorkerPool, lacking: deque[_Lack]) -> None:
        """Make what pools lack, and drop what is over, in turns, as hands come free, until it is time to look again."""
        dropping = True
        while True:
            if dropping and workers.free and next(self._turns):  # however much is lacking
                dropping = await self._drop(1, workers) == 1
            while lacking and (free := workers.free):
                lack = lacking.popleft()
                wanted = min(lack.missing, -(-free // (len(lacking) + 1)))
                if await self._create(lack, wanted, workers) == wanted < lack.missing:
                    lacking.append(replace(lack, missing=lack.missing - wanted))
            if dropping and (free := workers.free):
                dropping = await self._drop(free, workers) == free
            left = self._look_at - monotonic()
            more = lacking or dropping
            if not more or left <= 0 or not await workers.a_hand_free(within_seconds=left):
                return

    async def _create(self, lack: _Lack, wanted: int, workers: WorkerPool) -> int:
        settings = self._resources.settings
        async with self._resources.store.transaction() as connection:
            planned = await store_databases.plan(
                connection,
                lack.pool_id,
                wanted,
                enough=lack.enough,
                max_databases=settings.max_databases,
                claim_seconds=settings.claim_seconds,
            )
        for row in planned:
            workers.take(self._databases.provision(row))
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
            workers.take(self._databases.drop(row))
        return len(claimed)

    def _servers(self, load: Mapping[str, tuple[int, int]]) -> list[ServerGauges]:
        most = self._resources.settings
        return [
            ServerGauges(name, databases, most.max_databases, disk_bytes, most.max_disk_bytes)
            for name, (databases, disk_bytes) in load.items()
        ]


def _facts(pool: PoolRow, held: Mapping[DatabaseState, int], place: QueuePosition, target: int) -> PoolGauges:
    """What metrics show of a pool."""
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
    """How many databases a pool lacks: to have its target ready, or for those who wait."""
    if held.get(DatabaseState.FAILED):
        return 0
    return enough - sum(held.get(state, 0) for state in store_databases.SUPPLY)
