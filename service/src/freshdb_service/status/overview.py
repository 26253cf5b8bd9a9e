"""Status of the whole installation: findings, counts, queues, servers and databases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from freshdb_service.errors import DatabaseNotFound
from freshdb_service.lifecycle import DatabaseState, TemplateState
from freshdb_service.redis.queue import QueueEntry
from freshdb_service.resources import Resources
from freshdb_service.status.diagnosis import (
    Finding,
    PoolStatus,
    ServerLimits,
    ServerStatus,
    findings,
    why_waiting,
)
from freshdb_service.status.server_status import all_servers
from freshdb_service.store import dashboard_queries
from freshdb_service.store import databases as store_databases
from freshdb_service.store import pools as store_pools
from freshdb_service.store import templates as store_templates
from freshdb_service.store.dashboard_queries import Counts, DatabaseDetails, DatabaseFilter
from freshdb_service.store.history import ResetFilter, ResetRow
from freshdb_service.store.rows import LeaseRow, PoolRow

_MOST_FAILED: Final = 20
_MOST_OF_A_LIFE: Final = 100


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Status of the installation at one instant."""

    counts: Counts
    databases: Mapping[DatabaseState, int]
    pools: int
    servers: int
    waiting: int
    longest_wait_seconds: float
    findings: Sequence[Finding]


@dataclass(frozen=True, slots=True)
class WaitingCaller:
    """A caller in a queue: the pool, the position (from 1), the reason and the remedy."""

    pool: PoolRow
    position: int
    standing: QueueEntry
    why: str
    remedy: str


@dataclass(frozen=True, slots=True)
class DatabaseHistory:
    """A database, with its leases and resets, newest first."""

    database: DatabaseDetails
    leases: Sequence[LeaseRow]
    resets: Sequence[ResetRow]


class Overview:
    """Queries for the dashboard and ``freshdb status``."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        settings = resources.settings
        self.limits: Final = ServerLimits(settings.max_databases, settings.max_disk_bytes)

    async def snapshot(self) -> Snapshot:
        """Return the status of the installation, with all findings."""
        servers = await all_servers(self._resources)
        async with self._resources.store.statement() as connection:
            pools = await store_pools.listing(connection)
            held = await store_databases.counts(connection)
            counts = await dashboard_queries.counts(connection)
            templates = await store_templates.listing(
                connection, name=None, state=TemplateState.FAILED, limit=_MOST_FAILED, after=None
            )
            templates += await store_templates.with_warnings(connection, limit=_MOST_FAILED)
            templates += await store_templates.outdated(connection, limit=_MOST_FAILED)
        places = await self._resources.queue.places([one.id for one in pools])
        facts = [
            PoolStatus(pool, held.get(pool.id, {}), place.waiting, place.age_seconds)
            for pool, place in zip(pools, places, strict=True)
        ]
        databases: dict[DatabaseState, int] = dict.fromkeys(DatabaseState, 0)
        for of_pool in held.values():
            for state, number in of_pool.items():
                databases[state] += number
        return Snapshot(
            counts=counts,
            databases=databases,
            pools=len(pools),
            servers=len(servers),
            waiting=sum(one.waiting for one in facts),
            longest_wait_seconds=max((one.longest_wait_seconds for one in facts), default=0.0),
            findings=findings(facts, servers, templates, self.limits),
        )

    async def servers(self) -> list[ServerStatus]:
        """Return all servers and their activity."""
        return await all_servers(self._resources)

    async def waiting(self, *, limit: int, pool_id: UUID | None = None) -> list[WaitingCaller]:
        """Return the callers in the queues, by pool, in the order of each queue."""
        async with self._resources.store.statement() as connection:
            pools = await store_pools.listing(connection)
            held = await store_databases.counts(connection)
        servers: dict[str, ServerStatus] | None = None
        found: list[WaitingCaller] = []
        for pool in pools:
            if (pool_id is not None and pool.id != pool_id) or len(found) >= limit:
                continue
            standing = await self._resources.queue.standing(pool.id, most=limit - len(found))
            if not standing:
                continue
            if servers is None:
                servers = {one.server.name: one for one in await all_servers(self._resources)}
            facts = PoolStatus(pool, held.get(pool.id, {}), len(standing), standing[0].waited_seconds)
            _, why, remedy = why_waiting(facts, servers.get(pool.server), self.limits)
            found += [
                WaitingCaller(pool, place, one, why, remedy) for place, one in enumerate(standing, start=1)
            ]
        return found

    async def databases(
        self, wanted: DatabaseFilter, *, limit: int, after: UUID | None
    ) -> list[DatabaseDetails]:
        """Return databases in the order of their ids."""
        async with self._resources.store.statement() as connection:
            return await dashboard_queries.listing(connection, wanted, limit=limit, after=after)

    async def history(self, database_id: UUID) -> DatabaseHistory:
        """Return one database, with its leases and resets of the last ``history_seconds``.

        Raises:
            DatabaseNotFound: no database has this id.
        """
        async with self._resources.store.statement() as connection:
            database = await dashboard_queries.get(connection, database_id)
            had = await dashboard_queries.leases_of(connection, database_id, limit=_MOST_OF_A_LIFE)
        if database is None:
            message = f"there is no database {database_id}: it never existed, or it was dropped"
            raise DatabaseNotFound(message)
        resets = await self._resources.history.resets(
            ResetFilter(database_id=database_id), limit=_MOST_OF_A_LIFE
        )
        return DatabaseHistory(database, had, resets)
