"""The work that is done to one database at a time: provision, reset, drop.

A worker claims a row (``store.databases``, ``store.resetting``), does what the row's state says, and sets the row to what
came of it. While it works it keeps the claim; a claim that was lost means that somebody else has the row by now, and what
this worker built belongs to a generation that nobody will ever hand out (the reconciler drops it).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from time import monotonic
from typing import Final, TypeVar
from uuid import UUID

from freshdb_service.errors import BackendUnavailable, FreshdbError, PoolNotFound
from freshdb_service.lifecycle import DatabaseState, Isolation
from freshdb_service.observability.logs import about
from freshdb_service.pooling.claim_renewal import kept
from freshdb_service.pooling.worker_pool import WorkerPool
from freshdb_service.postgres import (
    Baseline,
    Blueprint,
    CopySource,
    Fenced,
    KnownState,
    Leftovers,
    Login,
    Mark,
    ResetEngine,
    ResetOutcome,
    Site,
    UsedDatabase,
    drop_database,
    drop_schema,
    provision_database,
    provision_schema,
    untold,
)
from freshdb_service.resources import Resources
from freshdb_service.store import databases as store_databases
from freshdb_service.store import pools as store_pools
from freshdb_service.store.history import Reset
from freshdb_service.store.reset_claims import ClaimedReset, ResetResult, make_ready, return_claim
from freshdb_service.store.rows import DatabaseRow, PoolRow

_log = logging.getLogger(__name__)
_BACKOFF_SECONDS = 1.0
_AGAIN_SECONDS = 0.5
_MOST_ORIGINS: Final = 500
_RESETS: Final = 4
"""So many resets may be under way where one database may be made: cleaning is mostly waiting for short answers."""

T = TypeVar("T")


class ResetJobs:
    """What is done to one claimed database."""

    def __init__(self, resources: Resources, engine: ResetEngine) -> None:
        self._resources = resources
        self._engine = engine
        hands = _RESETS * resources.settings.provision_concurrency * len(resources.servers)
        self.in_place: Final = asyncio.Semaphore(hands)
        """Resets of databases that stay their lease's: so many at once, and who asks waits."""
        self.resets: Final = WorkerPool(hands, resources.stopping)
        """Resets of databases that are nobody's any more; at most so many at once that the servers keep busy."""
        self._origins: dict[UUID, tuple[Isolation, CopySource]] = {}

    async def provision(self, row: DatabaseRow) -> None:
        """``creating`` → ``ready`` (or ``failed``)."""
        with self._work("provision", row):
            await self._provision(row)

    async def _provision(self, row: DatabaseRow) -> None:
        began = monotonic()
        try:
            async with self._claim_kept(row):
                server = self._resources.server(row.server)
                isolation, origin = await self._origin(row.pool_id)
                if origin.blueprint is not None:
                    login = await provision_schema(server, row.id, row.generation, origin.blueprint)
                else:
                    login = await provision_database(server, row.id, row.generation, origin.template_database)
                known = await self._engine.note(server, login, origin)
        except BackendUnavailable as error:
            await self._fail(row, DatabaseState.FAILED, error, "provision", backoff_seconds=_BACKOFF_SECONDS)
            return
        except (FreshdbError, TimeoutError) as error:
            await self._fail(row, DatabaseState.FAILED, error, "provision")
            return
        self._resources.metrics.provision.labels(isolation).observe(monotonic() - began)
        await self._ready(row, login, known, "provisioned")

    def begin_reset(self, used: ClaimedReset) -> asyncio.Future[Leftovers | None]:
        """Begin to reset a claimed database, in the background.

        Returns:
            what its holder had left open, once the old login is closed; ``None`` if that is not known.
        """
        told: asyncio.Future[Leftovers | None] = asyncio.get_running_loop().create_future()

        def tell(leftovers: Leftovers | None) -> None:
            if not told.done():
                told.set_result(leftovers)

        async def work() -> None:
            try:
                await self.reset(used, fenced=tell)
            finally:
                tell(None)

        self.resets.take(work())
        return told

    async def reset(self, used: ClaimedReset, *, fenced: Fenced = untold) -> None:
        """``resetting`` → ``ready``; back to ``dirty`` when the server is away, ``failed`` when it cannot be done.

        ``fenced`` is called when the old login is closed.
        """
        with self._work("reset", used.row):
            await self._reset(used, fenced)

    async def _reset(self, used: ClaimedReset, fenced: Fenced) -> None:
        row = used.row
        try:
            isolation, outcome = await self._outcome(used, fenced)
        except BackendUnavailable as error:
            await self._fail(row, DatabaseState.DIRTY, error, "reset", backoff_seconds=_BACKOFF_SECONDS)
            return
        except (FreshdbError, TimeoutError) as error:
            await self._fail(row, DatabaseState.FAILED, error, "reset")
            return
        self._note(row, isolation, outcome)
        await self._ready(row, outcome.login, outcome.known, "reset", **_facts(outcome))

    async def reset_leased(self, used: ClaimedReset) -> None:
        """Make the database of a lease clean, for the same lease; it gets it back whatever comes of this.

        Raises:
            FreshdbError: it could not be made clean now; asking again is safe.
        """
        with self._work("reset", used.row):
            await self._reset_leased(used)

    async def _reset_leased(self, used: ClaimedReset) -> None:
        row = used.row
        try:
            isolation, outcome = await self._outcome(used, untold)
        except (FreshdbError, TimeoutError) as error:
            self._resources.metrics.failures.labels("reset").inc()
            await self._insistent(lambda: return_claim(self._resources.store, row, None))
            if isinstance(error, FreshdbError):
                raise
            raise BackendUnavailable(f"the reset took too long: {error}", retry_after_seconds=1.0) from error
        self._note(row, isolation, outcome)
        clean = _clean(outcome.login, outcome.known)
        if not await self._insistent(lambda: return_claim(self._resources.store, row, clean)):
            await self._resources.queue.wake(row.pool_id)  # the lease ended meanwhile
        self._resources.events.emit(
            "lease.reset", lease=row.lease_id, database=row.id, generation=row.generation, **_facts(outcome)
        )

    def _note(self, row: DatabaseRow, isolation: Isolation, outcome: ResetOutcome) -> None:
        self._resources.metrics.cleaned(outcome.path, isolation, outcome.seconds)
        if outcome.cause is not None:
            self._resources.metrics.rebuilds.labels(outcome.cause, isolation).inc()
        self._resources.history.reset(_reset(row, outcome))
        if outcome.audit is None:
            return
        same = not outcome.audit
        self._resources.metrics.audits.labels("same" if same else "different", isolation).inc()
        self._resources.events.emit(
            "database.audited", database=row.id, pool=row.pool_id, same=same, differences=outcome.audit
        )
        if not same:
            _log.error(
                "an audit of database %s (%s) found: %s; it was made anew",
                *(row.id, row.database_name, "; ".join(outcome.audit)),
            )

    async def _outcome(self, used: ClaimedReset, fenced: Fenced) -> tuple[Isolation, ResetOutcome]:
        row = used.row
        async with self._claim_kept(row):
            isolation, origin = await self._origin(row.pool_id)
            server = self._resources.server(row.server)
            return isolation, await self._engine.reset(
                server, _used(used, isolation), origin, row.generation, fenced
            )

    async def drop(self, row: DatabaseRow) -> None:
        """``dropping`` → gone."""
        with self._work("drop", row):
            await self._drop(row)

    async def _drop(self, row: DatabaseRow) -> None:
        pool = await self._pool(row.pool_id)
        try:
            async with self._claim_kept(row):
                server = self._resources.server(row.server)
                if pool.isolation is Isolation.DATABASE:
                    await drop_database(server, row.id)
                elif pool.blueprint is not None:
                    await drop_schema(server, row.id, Blueprint.from_json(pool.blueprint).shared_database)
        except (FreshdbError, TimeoutError) as error:
            _log.warning("cannot drop database %s: %s", row.id, error)
            self._resources.metrics.failures.labels("drop").inc()
            await self._insistent(lambda: self._postpone(row))
            return
        await self._insistent(lambda: self._forget(row))
        self._resources.events.emit("database.dropped", database=row.id, pool=row.pool_id)

    @contextmanager
    def _work(self, what: str, row: DatabaseRow) -> Iterator[None]:
        """Surround the work on one database: others see that somebody is at it, and it is in logs and traces."""
        named = {"pool": str(row.pool_id), "database": str(row.id)}
        attributes = {f"freshdb.{name}": value for name, value in named.items()}
        with (
            about(**named),
            self._resources.tracing.work(what, attributes),
            self._resources.worker_locks.working_on(row),
        ):
            yield

    async def _ready(
        self, row: DatabaseRow, login: Login, known: KnownState | None, how: str, **facts: object
    ) -> None:
        clean = _clean(login, known)
        still_ours = await self._insistent(lambda: make_ready(self._resources.store, row, clean))
        if not still_ours:
            _log.warning("lost the claim on database %s generation %s", row.id, row.generation)
            return
        self._resources.events.emit(
            "database.ready", database=row.id, pool=row.pool_id, generation=row.generation, how=how, **facts
        )
        await self._resources.queue.wake(row.pool_id)

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
        self._resources.metrics.failures.labels(work).inc()
        self._resources.history.failed(row.pool_id)
        reason = str(error) or type(error).__name__
        await self._insistent(lambda: self._move(row, state, reason, backoff_seconds))
        self._resources.events.emit(f"database.{state}", database=row.id, pool=row.pool_id, error=reason)

    async def _move(
        self, row: DatabaseRow, state: DatabaseState, reason: str, backoff_seconds: float | None
    ) -> None:
        async with self._resources.store.statement() as connection:
            await store_databases.move(connection, row, state, error=reason, backoff_seconds=backoff_seconds)
            await store_pools.note_error(connection, row.pool_id, reason)

    async def _postpone(self, row: DatabaseRow) -> None:
        async with self._resources.store.statement() as connection:
            await store_databases.postpone(connection, row, _BACKOFF_SECONDS)

    async def _forget(self, row: DatabaseRow) -> None:
        async with self._resources.store.statement() as connection:
            await store_databases.delete_row(connection, row)

    async def _insistent(self, write: Callable[[], Awaitable[T]]) -> T:
        """Note what came of the work, tried again for as long as the claim on it lasts.

        Otherwise a short outage of the control plane would leave every row that was being worked on to the reconciler.
        """
        until = monotonic() + self._resources.settings.claim_seconds
        while True:
            try:
                return await write()
            except BackendUnavailable:
                if monotonic() >= until or self._resources.stopping.is_set():
                    raise
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _origin(self, pool_id: UUID) -> tuple[Isolation, CopySource]:
        """What the databases of a pool are made from. Neither template nor blueprint ever changes: one look is enough."""
        if pool_id not in self._origins:
            pool = await self._pool(pool_id)
            if len(self._origins) >= _MOST_ORIGINS:
                self._origins.clear()
            self._origins[pool_id] = (pool.isolation, _origin(pool))
        return self._origins[pool_id]

    async def _pool(self, pool_id: UUID) -> PoolRow:
        async with self._resources.store.statement() as connection:
            pool = await store_pools.get(connection, pool_id)
        if pool is None:
            raise PoolNotFound(f"there is no pool {pool_id}")
        return pool

    def _claim_kept(self, row: DatabaseRow) -> AbstractAsyncContextManager[None]:
        """Keep the claim on a row while the block works on it."""

        async def extend() -> bool:
            async with self._resources.store.statement() as connection:
                return await store_databases.extend_claim(connection, row, claim_seconds)

        claim_seconds = self._resources.settings.claim_seconds
        return kept(f"database {row.id}", extend, claim_seconds=claim_seconds)


def _origin(pool: PoolRow) -> CopySource:
    if pool.template_database is None:
        message = f"the template {pool.template} has no database"
        raise PoolNotFound(message)
    if pool.isolation is Isolation.DATABASE:
        return CopySource(template_database=pool.template_database, blueprint=None)
    if pool.blueprint is None:
        message = f"the template {pool.template} is not prepared for isolation schema yet"
        raise PoolNotFound(message)
    return CopySource(pool.template_database, Blueprint.from_json(pool.blueprint))


def _clean(login: Login, known: KnownState | None) -> ResetResult:
    """A clean database in the store's words."""
    return ResetResult(
        database_name=login.database,
        schema_name=login.schema,
        login=login.user,
        password=login.password,
        baseline=None if known is None else known.baseline.to_json(),
        mark=None if known is None else known.mark.to_json(),
    )


def _facts(outcome: ResetOutcome) -> dict[str, object]:
    """What events say of a reset."""
    return {
        "path": outcome.path,
        "reason": outcome.reason,
        "seconds": outcome.seconds,
        "leftovers": outcome.leftovers.to_json(),
    }


def _reset(row: DatabaseRow, outcome: ResetOutcome) -> Reset:
    """What the history says of a reset."""
    return Reset(
        database_id=row.id,
        pool_id=row.pool_id,
        generation=row.generation,
        lease_id=row.lease_id,
        path=outcome.path,
        reason=outcome.reason,
        seconds=outcome.seconds,
        leftovers=outcome.leftovers.to_json(),
    )


def _used(used: ClaimedReset, isolation: Isolation) -> UsedDatabase:
    """A claimed row in the reset engine's words."""
    row, known, site = used.row, None, None
    if row.database_name is not None and row.login is not None:
        site = Site(row.database_name, row.schema_name, row.login)
    if used.baseline is not None and used.mark is not None:
        try:
            known = KnownState(Baseline.from_json(used.baseline), Mark.from_json(used.mark))
        except (KeyError, TypeError, ValueError):
            _log.warning("what is known of database %s was noted by another version", row.id)
    return UsedDatabase(row.id, isolation, site, known)
