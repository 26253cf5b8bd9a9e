"""Pools: their health and sizes, and the work that is done to one database at a time.

A worker claims a row (``store.databases``), does what the row's state says, and sets the row to what came of it. While it
works it keeps the claim; a claim that was lost means that somebody else has the row by now, and what this worker built
belongs to a generation that nobody will ever hand out (the reconciler drops it).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from uuid import UUID

from freshdb_service.cluster import (
    Blueprint,
    Login,
    Origin,
    ResetEngine,
    UsedDatabase,
    drop_database,
    drop_schema,
    provision_database,
    provision_schema,
)
from freshdb_service.errors import BackendUnavailable, FreshdbError, InvalidRequest, PoolNotFound
from freshdb_service.installation import Installation
from freshdb_service.lifecycle import DatabaseState, Isolation
from freshdb_service.redis.queue import Place
from freshdb_service.redis.signals import Work
from freshdb_service.store import databases as store_databases
from freshdb_service.store import pools as store_pools
from freshdb_service.store.rows import DatabaseRow, PoolRow
from freshdb_service.store.session import Connection, ConstraintViolated

_log = logging.getLogger(__name__)
_BACKOFF_SECONDS = 1.0
_AGAIN_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class PoolHealth:
    """A pool, what it holds, and who waits for it."""

    pool: PoolRow
    databases: Mapping[DatabaseState, int]
    place: Place


class Pools:
    """Health and sizes of pools."""

    def __init__(self, at: Installation) -> None:
        self._at = at

    async def listing(self, *, limit: int = 10_000, after: UUID | None = None) -> list[PoolHealth]:
        """Every pool, by id."""
        async with self._at.store.statement() as connection:
            found = await store_pools.listing(connection, limit=limit, after=after)
            held = await store_databases.counts(connection)
        return [
            PoolHealth(pool, held.get(pool.id, {}), await self._at.queue.place(pool.id)) for pool in found
        ]

    async def show(self, pool_id: UUID) -> PoolHealth:
        """One pool.

        Raises:
            PoolNotFound: there is none.
        """
        async with self._at.store.statement() as connection:
            pool = await store_pools.get(connection, pool_id)
            held = await store_databases.counts(connection)
        if pool is None:
            raise _not_found(pool_id)
        return PoolHealth(pool, held.get(pool.id, {}), await self._at.queue.place(pool.id))

    async def resize(self, pool_id: UUID, sizes: Mapping[str, float | int]) -> PoolHealth:
        """Change ``min_ready``, ``max_size`` or ``idle_seconds``.

        Raises:
            PoolNotFound: there is none.
            InvalidRequest: ``min_ready`` would be larger than ``max_size``.
        """
        if sizes:
            try:
                async with self._at.store.statement() as connection:
                    pool = await store_pools.resize(connection, pool_id, sizes)
            except ConstraintViolated:
                message = "min_ready would be larger than max_size; change both"
                raise InvalidRequest(
                    message, extra={"errors": [{"field": "min_ready", "message": message}]}
                ) from None
            if pool is None:
                raise _not_found(pool_id)
            await self._at.signals.announce(Work.DEMAND)
            self._at.events.emit("pool.resized", pool=pool_id, **sizes)
        return await self.show(pool_id)


class Databases:
    """What is done to one claimed database."""

    def __init__(self, at: Installation, engine: ResetEngine) -> None:
        self._at = at
        self._engine = engine

    async def provision(self, row: DatabaseRow) -> None:
        """``creating`` → ``ready`` (or ``failed``)."""
        began = monotonic()
        pool = await self._pool(row)
        try:
            async with self._claim_kept(row):
                server = self._at.server(row.server)
                origin = _origin(pool)
                if origin.blueprint is not None:
                    login = await provision_schema(server, row.id, row.generation, origin.blueprint)
                else:
                    login = await provision_database(server, row.id, row.generation, origin.template_database)
        except BackendUnavailable as error:
            await self._fail(row, DatabaseState.FAILED, error, "provision", backoff_seconds=_BACKOFF_SECONDS)
            return
        except (FreshdbError, TimeoutError) as error:
            await self._fail(row, DatabaseState.FAILED, error, "provision")
            return
        self._at.metrics.provision.labels(pool.isolation).observe(monotonic() - began)
        await self._ready(row, login, "provisioned")

    async def reset(self, row: DatabaseRow) -> None:
        """``resetting`` → ``ready``; back to ``dirty`` when the server is away, ``failed`` when it cannot be done."""
        pool = await self._pool(row)
        try:
            async with self._claim_kept(row):
                outcome = await self._engine.reset(
                    self._at.server(row.server),
                    UsedDatabase(row.id, pool.isolation),
                    _origin(pool),
                    row.generation,
                )
        except BackendUnavailable as error:
            await self._fail(row, DatabaseState.DIRTY, error, "reset", backoff_seconds=_BACKOFF_SECONDS)
            return
        except (FreshdbError, TimeoutError) as error:
            await self._fail(row, DatabaseState.FAILED, error, "reset")
            return
        self._at.metrics.reset.labels(outcome.path, pool.isolation).observe(outcome.seconds)
        await self._ready(
            row, outcome.login, "reset", path=outcome.path, reason=outcome.reason, seconds=outcome.seconds
        )

    async def drop(self, row: DatabaseRow) -> None:
        """``dropping`` → gone."""
        pool = await self._pool(row)
        try:
            async with self._claim_kept(row):
                server = self._at.server(row.server)
                if pool.isolation is Isolation.DATABASE:
                    await drop_database(server, row.id)
                elif pool.blueprint is not None:
                    await drop_schema(server, row.id, Blueprint.from_json(pool.blueprint).shared_database)
        except (FreshdbError, TimeoutError) as error:
            _log.warning("cannot drop database %s: %s", row.id, error)
            self._at.metrics.failures.labels("drop").inc()
            async with self._insistent() as connection:
                await store_databases.postpone(connection, row, _BACKOFF_SECONDS)
            return
        async with self._insistent() as connection:
            await store_databases.forget(connection, row)
        self._at.events.emit("database.dropped", database=row.id, pool=row.pool_id)

    async def _ready(self, row: DatabaseRow, login: Login, how: str, **facts: object) -> None:
        async with self._insistent() as connection:
            still_ours = await store_databases.make_ready(
                connection,
                row,
                database_name=login.database,
                schema_name=login.schema,
                login=login.user,
                password=login.password,
            )
            if still_ours:
                await store_pools.note_error(connection, row.pool_id, None)
        if not still_ours:
            _log.warning("lost the claim on database %s generation %s", row.id, row.generation)
            return
        self._at.events.emit(
            "database.ready", database=row.id, pool=row.pool_id, generation=row.generation, how=how, **facts
        )
        await self._at.queue.wake(row.pool_id)

    async def _fail(
        self,
        row: DatabaseRow,
        state: DatabaseState,
        error: Exception,
        work: str,
        *,
        backoff_seconds: float | None = None,
    ) -> None:
        _log.warning("%s of database %s failed: %s", work, row.id, error)
        self._at.metrics.failures.labels(work).inc()
        reason = str(error) or type(error).__name__
        async with self._insistent() as connection:
            await store_databases.move(connection, row, state, error=reason, backoff_seconds=backoff_seconds)
            await store_pools.note_error(connection, row.pool_id, reason)
        self._at.events.emit(f"database.{state}", database=row.id, pool=row.pool_id, error=reason)

    @asynccontextmanager
    async def _insistent(self) -> AsyncIterator[Connection]:
        """A connection to note what came of the work, tried for as long as the claim on it lasts.

        Otherwise a short outage of the control plane would leave every row that was being worked on to the reconciler.
        """
        until = monotonic() + self._at.settings.claim_seconds
        while True:
            try:
                await self._at.store.ping()
                break
            except BackendUnavailable:
                if monotonic() >= until or self._at.stopping.is_set():
                    raise
                await asyncio.sleep(_AGAIN_SECONDS)
        async with self._at.store.statement() as connection:
            yield connection

    async def _pool(self, row: DatabaseRow) -> PoolRow:
        async with self._at.store.statement() as connection:
            pool = await store_pools.get(connection, row.pool_id)
        if pool is None:
            raise _not_found(row.pool_id)
        return pool

    @asynccontextmanager
    async def _claim_kept(self, row: DatabaseRow) -> AsyncIterator[None]:
        """Keep the claim on a row while the block works on it."""
        keeper = asyncio.create_task(self._keep_claim(row))
        try:
            yield
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)

    async def _keep_claim(self, row: DatabaseRow) -> None:
        claim_seconds = self._at.settings.claim_seconds
        while True:
            await asyncio.sleep(claim_seconds / 3)
            try:
                async with self._at.store.statement() as connection:
                    if not await store_databases.extend_claim(connection, row, claim_seconds):
                        return
            except BackendUnavailable as error:
                _log.warning("cannot keep the claim on database %s: %s", row.id, error)


def _origin(pool: PoolRow) -> Origin:
    if pool.template_database is None:
        message = f"the template {pool.template} has no database"
        raise PoolNotFound(message)
    blueprint = Blueprint.from_json(pool.blueprint) if pool.blueprint is not None else None
    return Origin(template_database=pool.template_database, blueprint=blueprint)


def _not_found(pool_id: UUID) -> PoolNotFound:
    return PoolNotFound(f"there is no pool {pool_id}")
