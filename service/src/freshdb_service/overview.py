"""Everything at a glance, for people: is it healthy, and if not, why; who waits; what servers and databases are doing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from freshdb_service.diagnosis import (
    Finding,
    Limits,
    PoolFacts,
    ServerFacts,
    findings,
    why_waiting,
)
from freshdb_service.errors import DatabaseNotFound
from freshdb_service.installation import Installation
from freshdb_service.lifecycle import DatabaseState, TemplateState
from freshdb_service.redis.queue import Standing
from freshdb_service.servers import all_servers
from freshdb_service.store import databases as store_databases
from freshdb_service.store import looking
from freshdb_service.store import pools as store_pools
from freshdb_service.store import templates as store_templates
from freshdb_service.store.history import ResetFilter, ResetRow
from freshdb_service.store.looking import Counts, DatabaseFilter, DatabaseLook
from freshdb_service.store.rows import LeaseRow, PoolRow

_MOST_FAILED: Final = 20
_MOST_OF_A_LIFE: Final = 100


@dataclass(frozen=True, slots=True)
class Glance:
    """The whole at one instant."""

    counts: Counts
    databases: Mapping[DatabaseState, int]
    pools: int
    servers: int
    waiting: int
    longest_wait_seconds: float
    findings: Sequence[Finding]


@dataclass(frozen=True, slots=True)
class Waiting:
    """Somebody who waits: for what, at which place (from 1), and why."""

    pool: PoolRow
    position: int
    standing: Standing
    why: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Life:
    """A database, who had it, and what became of it each time; the newest first."""

    database: DatabaseLook
    leases: Sequence[LeaseRow]
    resets: Sequence[ResetRow]


class Overview:
    """What people look at."""

    def __init__(self, at: Installation) -> None:
        self._at = at
        settings = at.settings
        self.limits: Final = Limits(settings.max_databases, settings.max_disk_bytes)

    async def glance(self) -> Glance:
        """The whole, with everything that is worth saying about it."""
        servers = await all_servers(self._at)
        async with self._at.store.statement() as connection:
            pools = await store_pools.listing(connection)
            held = await store_databases.counts(connection)
            counts = await looking.counts(connection)
            failed = await store_templates.listing(
                connection, name=None, state=TemplateState.FAILED, limit=_MOST_FAILED, after=None
            )
        places = await self._at.queue.places([one.id for one in pools])
        facts = [
            PoolFacts(pool, held.get(pool.id, {}), place.waiting, place.age_seconds)
            for pool, place in zip(pools, places, strict=True)
        ]
        databases: dict[DatabaseState, int] = dict.fromkeys(DatabaseState, 0)
        for of_pool in held.values():
            for state, number in of_pool.items():
                databases[state] += number
        return Glance(
            counts=counts,
            databases=databases,
            pools=len(pools),
            servers=len(servers),
            waiting=sum(one.waiting for one in facts),
            longest_wait_seconds=max((one.longest_wait_seconds for one in facts), default=0.0),
            findings=findings(facts, servers, failed, self.limits),
        )

    async def servers(self) -> list[ServerFacts]:
        """Every server, and how busy it is."""
        return await all_servers(self._at)

    async def waiting(self, *, limit: int, pool_id: UUID | None = None) -> list[Waiting]:
        """Who waits, pool by pool, the first in each queue first."""
        async with self._at.store.statement() as connection:
            pools = await store_pools.listing(connection)
            held = await store_databases.counts(connection)
        servers: dict[str, ServerFacts] | None = None
        found: list[Waiting] = []
        for pool in pools:
            if (pool_id is not None and pool.id != pool_id) or len(found) >= limit:
                continue
            standing = await self._at.queue.standing(pool.id, most=limit - len(found))
            if not standing:
                continue
            if servers is None:
                servers = {one.server.name: one for one in await all_servers(self._at)}
            facts = PoolFacts(pool, held.get(pool.id, {}), len(standing), standing[0].waited_seconds)
            _, why, remedy = why_waiting(facts, servers.get(pool.server), self.limits)
            found += [Waiting(pool, place, one, why, remedy) for place, one in enumerate(standing, start=1)]
        return found

    async def databases(
        self, wanted: DatabaseFilter, *, limit: int, after: UUID | None
    ) -> list[DatabaseLook]:
        """Databases by id."""
        async with self._at.store.statement() as connection:
            return await looking.listing(connection, wanted, limit=limit, after=after)

    async def life(self, database_id: UUID) -> Life:
        """One database, and what it went through, as far as that is kept (``history_seconds``).

        Raises:
            DatabaseNotFound: there is none.
        """
        async with self._at.store.statement() as connection:
            database = await looking.get(connection, database_id)
            had = await looking.leases_of(connection, database_id, limit=_MOST_OF_A_LIFE)
        if database is None:
            message = f"there is no database {database_id}: it never was, or has been dropped"
            raise DatabaseNotFound(message)
        resets = await self._at.history.resets(ResetFilter(database_id=database_id), limit=_MOST_OF_A_LIFE)
        return Life(database, had, resets)
