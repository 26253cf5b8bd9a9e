"""The jobs on one database: provision, reset, drop.

A worker claims a row (``store.databases``, ``store.reset_claims``), does the work that the row's state asks for, and writes
the new state. It renews the claim during the work. If the claim is lost, another worker has the row. The objects that this
worker created then belong to a generation that is never handed out, and the reconciler drops them.

A reset has two steps: ``fence`` shuts the holder out and finds its leftovers, ``finish`` cleans or rebuilds the database. A
release waits for the first step only (``begin_reset``). If this replica dies in either step, the row stays in ``resetting``
and another replica takes the claim over. Both steps can be repeated, because the next claim has a new generation.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager
from contextvars import copy_context
from time import monotonic
from typing import Final, TypeVar
from uuid import UUID

from freshdb_service.errors import BackendUnavailable, FreshdbError, PoolNotFound
from freshdb_service.lifecycle import DatabaseState, Isolation
from freshdb_service.observability.logs import log_context
from freshdb_service.pooling.claim_renewal import renewed
from freshdb_service.pooling.worker_pool import WorkerPool
from freshdb_service.postgres import (
    Baseline,
    Blueprint,
    CopySource,
    Fenced,
    KnownState,
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
)
from freshdb_service.resources import Resources
from freshdb_service.store import databases as store_databases
from freshdb_service.store import pools as store_pools
from freshdb_service.store.history import Reset
from freshdb_service.store.reset_claims import ClaimedReset, ResetResult, make_ready, return_claim
from freshdb_service.store.rows import DatabaseRow, PoolRow

_log = logging.getLogger(__name__)
_BACKOFF_SECONDS = 1.0
_RETRY_SECONDS = 0.5
_MAX_SOURCES: Final = 500
_RESETS: Final = 4
"""Concurrent resets for each database that may be provisioned at once. A reset mostly waits for short answers."""

T = TypeVar("T")


class ResetJobs:
    """Provisions, resets and drops claimed databases."""

    def __init__(self, resources: Resources, engine: ResetEngine) -> None:
        self._resources = resources
        self._engine = engine
        slots = _RESETS * resources.settings.provision_concurrency * len(resources.servers)
        self.in_place: Final = asyncio.Semaphore(slots)
        """Slots for resets of databases that stay leased. Their callers wait for one."""
        self.resets: Final = WorkerPool(slots, resources.stopping)
        """Resets of databases that no lease has any more: as many at once as keep the servers busy."""
        self._sources: dict[UUID, tuple[Isolation, CopySource]] = {}

    async def provision(self, row: DatabaseRow) -> None:
        """``creating`` → ``ready`` (or ``failed``)."""
        with self._work("provision", row):
            await self._provision(row)

    async def _provision(self, row: DatabaseRow) -> None:
        began = monotonic()
        try:
            async with self._claim_renewed(row):
                server = self._resources.server(row.server)
                isolation, source = await self._source(row.pool_id)
                if source.blueprint is not None:
                    login = await provision_schema(server, row.id, row.generation, source.blueprint)
                else:
                    login = await provision_database(server, row.id, row.generation, source.template_database)
                known = await self._engine.note(server, login, source)
        except BackendUnavailable as error:
            await self._fail(row, DatabaseState.FAILED, error, "provision", backoff_seconds=_BACKOFF_SECONDS)
            return
        except (FreshdbError, TimeoutError) as error:
            await self._fail(row, DatabaseState.FAILED, error, "provision")
            return
        self._resources.metrics.provision.labels(isolation).observe(monotonic() - began)
        await self._ready(row, login, known, "provisioned")

    def begin_reset(self, used: ClaimedReset) -> asyncio.Task[Fenced]:
        """Start the reset of a claimed database, for which a worker slot is reserved.

        Both steps are tasks from the moment of the claim. A caller that hangs up, or stops waiting, interrupts neither.
        They share one context, because the second step ends log fields and spans that the first one began.

        Returns:
            the first step. The second one follows in the worker slot, and handles the errors of both.
        """
        context, work = copy_context(), ExitStack()
        context.run(work.enter_context, self._work("reset", used.row))
        fencing = asyncio.create_task(self._fence(used), context=context)

        async def finish() -> None:
            with work:
                await self._finish(used, fencing)

        self.resets.submit(finish(), context)
        return fencing

    async def reset(self, used: ClaimedReset) -> None:
        """``resetting`` → ``ready``; → ``dirty`` if the server is unavailable, → ``failed`` on any other error."""
        with self._work("reset", used.row):
            await self._finish(used, self._fence(used))

    async def _fence(self, used: ClaimedReset) -> Fenced:
        row = used.row
        isolation, source = await self._source(row.pool_id)
        server = self._resources.server(row.server)
        return await self._engine.fence(server, _used(used, isolation), source, row.generation)

    async def _finish(self, used: ClaimedReset, fencing: Awaitable[Fenced]) -> None:
        row = used.row
        try:
            outcome = await self._outcome(row, fencing)
        except BackendUnavailable as error:
            await self._fail(row, DatabaseState.DIRTY, error, "reset", backoff_seconds=_BACKOFF_SECONDS)
            return
        except (FreshdbError, TimeoutError) as error:
            await self._fail(row, DatabaseState.FAILED, error, "reset")
            return
        self._note(row, outcome)
        await self._ready(row, outcome.login, outcome.known, "reset", **_facts(outcome))

    async def _outcome(self, row: DatabaseRow, fencing: Awaitable[Fenced]) -> ResetOutcome:
        async with self._claim_renewed(row):
            fenced = await fencing
            return await fenced.finish()

    async def reset_leased(self, used: ClaimedReset) -> None:
        """Reset the database of a lease in place. The lease gets the database back, also after an error.

        Raises:
            FreshdbError: the reset failed. The caller can try again.
        """
        with self._work("reset", used.row):
            await self._reset_leased(used)

    async def _reset_leased(self, used: ClaimedReset) -> None:
        row = used.row
        try:
            outcome = await self._outcome(row, self._fence(used))
        except (FreshdbError, TimeoutError) as error:
            self._resources.metrics.failures.labels("reset").inc()
            await self._retried(lambda: return_claim(self._resources.store, row, None))
            if isinstance(error, FreshdbError):
                raise
            raise BackendUnavailable(f"the reset took too long: {error}", retry_after_seconds=1.0) from error
        self._note(row, outcome)
        clean = _clean(outcome.login, outcome.known)
        if not await self._retried(lambda: return_claim(self._resources.store, row, clean)):
            await self._resources.queue.wake(row.pool_id)  # the lease ended in the meantime
        self._resources.events.emit(
            "lease.reset", lease=row.lease_id, database=row.id, generation=row.generation, **_facts(outcome)
        )

    def _note(self, row: DatabaseRow, outcome: ResetOutcome) -> None:
        isolation = Isolation.DATABASE if outcome.login.schema is None else Isolation.SCHEMA
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
                "an audit of database %s (%s) found: %s; the database was rebuilt",
                *(row.id, row.database_name, "; ".join(outcome.audit)),
            )

    async def drop(self, row: DatabaseRow) -> None:
        """``dropping`` → gone."""
        with self._work("drop", row):
            await self._drop(row)

    async def _drop(self, row: DatabaseRow) -> None:
        pool = await self._pool(row.pool_id)
        try:
            async with self._claim_renewed(row):
                server = self._resources.server(row.server)
                if pool.isolation is Isolation.DATABASE:
                    await drop_database(server, row.id)
                elif pool.blueprint is not None:
                    await drop_schema(server, row.id, Blueprint.from_json(pool.blueprint).shared_database)
        except (FreshdbError, TimeoutError) as error:
            _log.warning("cannot drop database %s: %s", row.id, error)
            self._resources.metrics.failures.labels("drop").inc()
            await self._retried(lambda: self._postpone(row))
            return
        await self._retried(lambda: self._forget(row))
        self._resources.events.emit("database.dropped", database=row.id, pool=row.pool_id)

    @contextmanager
    def _work(self, what: str, row: DatabaseRow) -> Iterator[None]:
        """Show during the block that this replica works on a database: to other replicas, in logs and in traces."""
        named = {"pool": str(row.pool_id), "database": str(row.id)}
        attributes = {f"freshdb.{name}": value for name, value in named.items()}
        with (
            log_context(**named),
            self._resources.tracing.work(what, attributes),
            self._resources.worker_locks.working_on(row),
        ):
            yield

    async def _ready(
        self, row: DatabaseRow, login: Login, known: KnownState | None, how: str, **facts: object
    ) -> None:
        clean = _clean(login, known)
        still_ours = await self._retried(lambda: make_ready(self._resources.store, row, clean))
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
        await self._retried(lambda: self._move(row, state, reason, backoff_seconds))
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

    async def _retried(self, write: Callable[[], Awaitable[T]]) -> T:
        """Write the result of the work. Try again for as long as the claim lasts.

        Otherwise a short outage of the control plane would leave every claimed row to the reconciler.
        """
        until = monotonic() + self._resources.settings.claim_seconds
        while True:
            try:
                return await write()
            except BackendUnavailable:
                if monotonic() >= until or self._resources.stopping.is_set():
                    raise
                await asyncio.sleep(_RETRY_SECONDS)

    async def _source(self, pool_id: UUID) -> tuple[Isolation, CopySource]:
        """The source that the databases of a pool are copied from. It is read once, because it never changes."""
        if pool_id not in self._sources:
            pool = await self._pool(pool_id)
            if len(self._sources) >= _MAX_SOURCES:
                self._sources.clear()
            self._sources[pool_id] = (pool.isolation, _source(pool))
        return self._sources[pool_id]

    async def _pool(self, pool_id: UUID) -> PoolRow:
        async with self._resources.store.statement() as connection:
            pool = await store_pools.get(connection, pool_id)
        if pool is None:
            raise PoolNotFound(f"there is no pool {pool_id}")
        return pool

    def _claim_renewed(self, row: DatabaseRow) -> AbstractAsyncContextManager[None]:
        """Renew the claim on a row during the block."""

        async def extend() -> bool:
            async with self._resources.store.statement() as connection:
                return await store_databases.extend_claim(connection, row, claim_seconds)

        claim_seconds = self._resources.settings.claim_seconds
        return renewed(f"database {row.id}", extend, claim_seconds=claim_seconds)


def _source(pool: PoolRow) -> CopySource:
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
    """Translate a clean database for the store."""
    return ResetResult(
        database_name=login.database,
        schema_name=login.schema,
        login=login.user,
        password=login.password,
        baseline=None if known is None else known.baseline.to_json(),
        mark=None if known is None else known.mark.to_json(),
    )


def _facts(outcome: ResetOutcome) -> dict[str, object]:
    """Fields of a reset's event."""
    return {
        "path": outcome.path,
        "reason": outcome.reason,
        "seconds": outcome.seconds,
        "leftovers": outcome.leftovers.to_json(),
    }


def _reset(row: DatabaseRow, outcome: ResetOutcome) -> Reset:
    """Entry of the history for a reset."""
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
    """Translate a claimed row for the reset engine."""
    row, known, site = used.row, None, None
    if row.database_name is not None and row.login is not None:
        site = Site(row.database_name, row.schema_name, row.login)
    if used.baseline is not None and used.mark is not None:
        try:
            known = KnownState(Baseline.from_json(used.baseline), Mark.from_json(used.mark))
        except (KeyError, TypeError, ValueError):
            _log.warning("the baseline of database %s was written by another version of freshdb", row.id)
    return UsedDatabase(row.id, isolation, site, known)
