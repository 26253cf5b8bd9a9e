"""Pools: their health and sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from freshdb_service.errors import InvalidRequest, PoolNotFound
from freshdb_service.lifecycle import DatabaseState
from freshdb_service.redis.queue import QueuePosition
from freshdb_service.redis.wakeups import WakeupReason
from freshdb_service.resources import Resources
from freshdb_service.store import databases as store_databases
from freshdb_service.store import pools as store_pools
from freshdb_service.store.audit_log import FRESHDB, Actor, AuditAction, record
from freshdb_service.store.connection import ConstraintViolated
from freshdb_service.store.rows import PoolRow


@dataclass(frozen=True, slots=True)
class PoolHealth:
    """A pool, what it holds, and who waits for it."""

    pool: PoolRow
    databases: Mapping[DatabaseState, int]
    place: QueuePosition


class Pools:
    """Health and sizes of pools."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources

    async def listing(self, *, limit: int = 10_000, after: UUID | None = None) -> list[PoolHealth]:
        """Every pool, by id."""
        async with self._resources.store.statement() as connection:
            found = await store_pools.listing(connection, limit=limit, after=after)
            held = await store_databases.counts(connection)
        places = await self._resources.queue.places([pool.id for pool in found])
        return [
            PoolHealth(pool, held.get(pool.id, {}), place) for pool, place in zip(found, places, strict=True)
        ]

    async def show(self, pool_id: UUID) -> PoolHealth:
        """One pool.

        Raises:
            PoolNotFound: there is none.
        """
        async with self._resources.store.statement() as connection:
            pool = await store_pools.get(connection, pool_id)
            held = await store_databases.counts(connection)
        if pool is None:
            raise _not_found(pool_id)
        return PoolHealth(pool, held.get(pool.id, {}), await self._resources.queue.place(pool.id))

    async def resize(
        self, pool_id: UUID, sizes: Mapping[str, float | int], *, by: Actor = FRESHDB
    ) -> PoolHealth:
        """Change ``min_ready``, ``max_size`` or ``idle_seconds``.

        Raises:
            PoolNotFound: there is none.
            InvalidRequest: ``min_ready`` would be larger than ``max_size``.
        """
        if sizes:
            try:
                async with self._resources.store.transaction() as connection:
                    pool = await store_pools.resize(connection, pool_id, sizes)
                    if pool is not None:
                        await record(
                            connection, AuditAction("pool.resized", by, pool_id, pool.template, dict(sizes))
                        )
            except ConstraintViolated:
                message = "min_ready would be larger than max_size; change both"
                raise InvalidRequest(
                    message, extra={"errors": [{"field": "min_ready", "message": message}]}
                ) from None
            if pool is None:
                raise _not_found(pool_id)
            await self._resources.wakeups.announce(WakeupReason.DEMAND)
            self._resources.events.emit("pool.resized", pool=pool_id, **sizes)
        return await self.show(pool_id)


def _not_found(pool_id: UUID) -> PoolNotFound:
    return PoolNotFound(f"there is no pool {pool_id}")
