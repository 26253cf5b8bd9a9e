"""Leases after their grant: renew, keep, reset, release, revoke, show.

A release has two steps. The first one ends the lease in the control plane and fences its database, and the answer waits for
it: it has the leftovers that the fence found. The second one cleans the database, and runs in the background
(:mod:`~freshdb_service.pooling.reset_jobs`).
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from freshdb_service.errors import (
    BackendUnavailable,
    Conflict,
    Forbidden,
    FreshdbError,
    LeaseEnded,
    LeaseNotFound,
)
from freshdb_service.leasing.acquire import Granted, facts
from freshdb_service.lifecycle import LEASE_LIVE, LeaseState
from freshdb_service.pooling.reset_jobs import ResetJobs
from freshdb_service.postgres import Fenced, Leftovers, close_login
from freshdb_service.redis.deadlines import Deadline, Refusal, Renewal
from freshdb_service.redis.wakeups import WakeupReason
from freshdb_service.resources import Resources
from freshdb_service.store import leases as store_leases
from freshdb_service.store import reset_claims
from freshdb_service.store.audit_log import FRESHDB, Actor
from freshdb_service.store.rows import LeaseRow

_FENCE_SECONDS: Final = 1.0
"""Timeout of a release for the fence, and for the leftovers that it finds. The reset goes on after it."""
_TRIES: Final = 5
"""Attempts of a heartbeat. Each kind of data that Redis may have lost costs one, unless it is lost again."""
_SLOT_SECONDS: Final = 0.25
"""Timeout of a release that waits for a worker slot. Without one, the login is closed and the database stays dirty for the
janitor, which is more work in total."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Released:
    """A lease that has ended, and objects that its holder left. ``leftovers`` is ``None`` if they are not known."""

    lease: LeaseRow
    leftovers: Leftovers | None


@dataclass(frozen=True, slots=True)
class _Ended:
    """A lease that has ended, and the first step of its database's reset. Without it, the janitor resets the database."""

    lease: LeaseRow
    fencing: asyncio.Task[Fenced] | None


class Leases:
    """Operations on granted leases.

    Args:
        resources: of this replica.
        reset_jobs: resets released databases.
        slot_seconds: timeout of a release that waits for a worker slot to reset its database.
    """

    def __init__(
        self, resources: Resources, reset_jobs: ResetJobs, *, slot_seconds: float = _SLOT_SECONDS
    ) -> None:
        self._resources = resources
        self._reset_jobs = reset_jobs
        self._slot_seconds = slot_seconds
        self._restoring = asyncio.Lock()

    async def renew(
        self, lease_id: UUID, *, principal: str, ttl_seconds: float | None, address: str | None = None
    ) -> Renewal:
        """Move the end of a lease to ``ttl_seconds`` from now (by default its own TTL), but not past its ``max_ttl``.

        This uses Redis only, unless Redis has lost the lease or has restarted. Then live leases get their deadlines back
        from the control plane. If ``ttl_seconds`` is longer than the lease's own TTL, it becomes the lease's own TTL. The
        control plane stores it first, so that it survives the loss of Redis.

        Raises:
            LeaseEnded: the lease has ended.
            LeaseNotFound: there is no such lease.
            Forbidden: another principal holds it.
        """
        restored = False
        for _ in range(_TRIES):
            answer = await self._resources.deadlines.renew(
                lease_id, ttl_seconds=ttl_seconds, principal=principal
            )
            if isinstance(answer, Renewal):
                if restored and not await self._live(lease_id):  # it ended before its deadline was restored
                    await self._settle(lease_id)
                    break
                self._resources.audit_log.collect(
                    "lease.renewed", Actor(principal, address), subject=lease_id
                )
                return answer
            if answer is Refusal.FOREIGN:
                raise _forbidden(lease_id)
            if answer is Refusal.OVER:
                break
            if answer is Refusal.LONGER and ttl_seconds is not None:
                async with self._resources.store.statement() as connection:
                    await store_leases.extend_ttl(connection, lease_id, ttl_seconds)
                await self._resources.deadlines.extend_ttl(lease_id, ttl_seconds=ttl_seconds)
                continue
            restored = True
            if answer is Refusal.FORGOTTEN:
                await self.restore_deadlines()
                continue
            if not (live := await self._live(lease_id)):
                break
            await self._resources.deadlines.restore(live, run_id=None)
        row = await self.get(lease_id)
        raise _has_ended(row) if row.principal == principal else _forbidden(lease_id)

    async def restore_deadlines(self) -> None:
        """If Redis has restarted, or is another one, give every live lease its full TTL again."""
        async with self._restoring:
            run_id = await self._resources.deadlines.forgotten_in_run()
            if run_id is None:
                return
            live = await self._live()
            await self._resources.deadlines.restore(live, run_id=run_id)
        if live:
            _log.warning("Redis has restarted: %d leases got their full TTL again", len(live))

    async def _live(self, lease_id: UUID | None = None) -> list[Deadline]:
        async with self._resources.store.statement() as connection:
            live = await store_leases.live(connection, lease_id)
        return [Deadline(one.id, one.principal, one.ttl_seconds, one.remaining_seconds) for one in live]

    async def release(self, lease_id: UUID, *, principal: str, address: str | None = None) -> Released:
        """End a lease for its holder, and return its leftovers. A second release is no error.

        Raises:
            LeaseEnded: the lease has expired or was revoked.
            LeaseNotFound: there is no such lease.
            Forbidden: another principal holds it.
        """
        by = Actor(principal, address)
        return await self._release(lease_id, LeaseState.RELEASED, principal=principal, by=by)

    async def revoke(self, lease_id: UUID, *, reason: str, by: Actor = FRESHDB) -> Released:
        """End a lease without its holder.

        Raises:
            LeaseEnded: the lease has ended already.
            LeaseNotFound: there is no such lease.
        """
        return await self._release(lease_id, LeaseState.REVOKED, principal=None, by=by, reason=reason)

    async def expire(self, lease_id: UUID) -> None:
        """End a lease whose deadline has passed. Do nothing if it has ended already."""
        ended = await self._end(lease_id, LeaseState.EXPIRED, by=FRESHDB)
        await self._resources.deadlines.settle([lease_id], over=True)
        if ended is not None:
            self._report(ended.lease)
            await self._leave_to_janitor(ended)

    async def _release(
        self,
        lease_id: UUID,
        state: LeaseState,
        *,
        principal: str | None,
        by: Actor,
        reason: str | None = None,
    ) -> Released:
        """End a lease and wait for the fence.

        The control plane's commit decides: before it nothing has happened, and after it the lease has ended, whatever
        happens to the rest. If this replica dies, another one takes over the claim on the database. If Redis is unavailable
        or empty, the reaper finds the deadline, or none. If the server is unavailable, the answer has no leftovers, and the
        reset is tried again until the login is closed. The reset does not need the caller.
        """
        ended = await self._end(
            lease_id, state, principal=principal, by=by, reason=reason, wait_seconds=self._slot_seconds
        )
        if ended is None:
            return await self._released_before(lease_id, state, principal)
        await self._settle(lease_id)
        leftovers = await self._leftovers(ended)
        await self._leave_to_janitor(ended)
        self._report(ended.lease, leftovers)
        return Released(ended.lease, leftovers)

    async def _released_before(self, lease_id: UUID, state: LeaseState, principal: str | None) -> Released:
        row = await self.get(lease_id)
        if row.state not in LEASE_LIVE:
            await self._settle(lease_id)  # the replica that ended it may have died before this
        if principal is not None and row.principal != principal:
            raise _forbidden(lease_id)
        if row.state is LeaseState.RELEASED and state is LeaseState.RELEASED:
            return Released(row, None)
        raise _has_ended(row)

    async def _settle(self, lease_id: UUID) -> None:
        """Remove the deadline of a lease that has ended. If Redis is unavailable, the reaper removes it later."""
        try:
            await self._resources.deadlines.settle([lease_id], over=True)
        except BackendUnavailable as error:
            _log.warning("the deadline of lease %s is left to the reaper: %s", lease_id, error)

    async def _end(
        self,
        lease_id: UUID,
        state: LeaseState,
        *,
        by: Actor,
        principal: str | None = None,
        reason: str | None = None,
        wait_seconds: float = 0.0,
    ) -> _Ended | None:
        """End a live lease, and start the reset of its database if a worker slot becomes free within ``wait_seconds``."""
        async with self._reset_jobs.resets.reserved(wait_seconds) as reserved:
            claim = store_leases.ResetClaim(
                self._resources.settings.claim_seconds, list(self._resources.servers)
            )
            ended = await store_leases.end(
                self._resources.store,
                lease_id,
                state,
                principal=principal,
                by=by,
                reason=reason,
                claim=claim if reserved else None,
            )
            if ended is None:
                return None
            # No await between the commit and this: the reset starts also if the caller has hung up.
            return _Ended(
                ended.lease, None if ended.used is None else self._reset_jobs.begin_reset(ended.used)
            )

    async def _leftovers(self, ended: _Ended) -> Leftovers | None:
        """Wait until the login of a lease that has ended is closed.

        Returns:
            objects that the holder left, or ``None`` if the server does not answer in time. Then the reset closes the login.
        """
        lease, fencing = ended.lease, ended.fencing
        try:
            async with asyncio.timeout(_FENCE_SECONDS):
                if fencing is not None:
                    await asyncio.wait({fencing})  # does not cancel it at the timeout, nor raise its error
                    if fencing.exception() is None:
                        return fencing.result().leftovers
                return await close_login(self._resources.server(lease.server), lease.login)
        except (BackendUnavailable, TimeoutError):
            return None

    async def _leave_to_janitor(self, ended: _Ended) -> None:
        if ended.fencing is None:
            await self._resources.wakeups.announce(WakeupReason.DIRTY)

    def _report(self, row: LeaseRow, leftovers: Leftovers | None = None) -> None:
        self._resources.metrics.ended(row.state)
        left = {} if leftovers is None else {"leftovers": leftovers.to_json()}
        self._resources.events.emit(f"lease.{row.state}", **facts(row), **left)

    async def reset(self, lease_id: UUID, *, principal: str, address: str | None = None) -> Granted:
        """Reset the database of an active lease in place. All connections to it are terminated.

        The lease gets a new generation with a new login. If the database had to be rebuilt, its name is new, too.

        Raises:
            LeaseEnded: the lease has ended.
            LeaseNotFound: there is no such lease.
            Forbidden: another principal holds it.
            Conflict: the lease is kept for inspection, or its database is being reset.
            BackendUnavailable: the reset failed. The caller can try again.
        """
        await self._reset_jobs.in_place.acquire()
        # If the caller hangs up, the reset is finished nevertheless.
        if not await asyncio.shield(self._reset_in_place(lease_id, principal, address)):
            row = await self.get(lease_id)
            if row.principal == principal and row.state is LeaseState.KEPT:
                message = f"the lease {lease_id} is kept for inspection: a reset would remove the contents of its database"
                raise Conflict(message)
            raise _refused(row, principal)
        granted = await self.show(lease_id)
        if granted.lease.state not in LEASE_LIVE:
            raise _has_ended(granted.lease)
        return granted

    async def _reset_in_place(self, lease_id: UUID, principal: str, address: str | None = None) -> bool:
        """Reset a leased database in a slot of ``in_place`` and free the slot; ``False`` if it cannot be claimed."""
        try:
            used = await reset_claims.claim_leased(
                self._resources.store,
                lease_id,
                principal,
                claim_seconds=self._resources.settings.claim_seconds,
                address=address,
            )
            if used is not None:
                await self._reset_jobs.reset_leased(used)
            return used is not None
        finally:
            self._reset_jobs.in_place.release()

    async def keep(
        self,
        lease_id: UUID,
        *,
        principal: str,
        ttl_seconds: float,
        reason: str | None,
        address: str | None = None,
    ) -> Granted:
        """Keep a lease's database for inspection, for ``ttl_seconds`` from now. A second call can extend that.

        Raises:
            LeaseEnded: the lease has ended.
            LeaseNotFound: there is no such lease.
            Forbidden: another principal holds it.
            Conflict: its database is being reset.
        """
        async with self._resources.store.transaction() as connection:
            row = await store_leases.keep(
                connection, lease_id, by=Actor(principal, address), ttl_seconds=ttl_seconds, reason=reason
            )
            live = await store_leases.live(connection, lease_id) if row is not None else []
        if row is None:
            raise _refused(await self.get(lease_id), principal)
        await self._resources.deadlines.restore(
            [Deadline(one.id, one.principal, one.ttl_seconds, one.remaining_seconds) for one in live],
            run_id=None,
        )
        await self._resources.deadlines.prolong(lease_id, ttl_seconds=ttl_seconds)
        self._resources.events.emit("lease.kept", **facts(row))
        return await self.show(lease_id)

    async def get(self, lease_id: UUID) -> LeaseRow:
        """Return one lease.

        Raises:
            LeaseNotFound: there is no such lease.
        """
        async with self._resources.store.statement() as connection:
            row = await store_leases.get(connection, lease_id)
        if row is None:
            message = f"there is no lease {lease_id}"
            raise LeaseNotFound(message)
        return row

    async def show(self, lease_id: UUID) -> Granted:
        """Return one lease and when it ends. It has its password while it is live.

        Raises:
            LeaseNotFound: there is no such lease.
        """
        row = await self.get(lease_id)
        [expires_at] = await self._resources.deadlines.expiry([lease_id])
        return Granted(row, expires_at if row.state in LEASE_LIVE else None)

    async def listing(
        self, wanted: store_leases.LeaseFilter, *, limit: int, after: tuple[datetime, UUID] | None
    ) -> list[Granted]:
        """Return leases in the order of their grants, without passwords."""
        async with self._resources.store.statement() as connection:
            rows = await store_leases.listing(connection, wanted, limit=limit, after=after)
        expiry = await self._resources.deadlines.expiry([row.id for row in rows])
        return [
            Granted(row, when if row.state in LEASE_LIVE else None)
            for row, when in zip(rows, expiry, strict=True)
        ]


def _forbidden(lease_id: UUID) -> Forbidden:
    return Forbidden(f"the lease {lease_id} belongs to another principal; only its holder can do this")


def _refused(row: LeaseRow, principal: str) -> FreshdbError:
    """Return the error for a database that cannot be claimed or kept now."""
    if row.principal != principal:
        return _forbidden(row.id)
    if row.state not in LEASE_LIVE:
        return _has_ended(row)
    message = f"the database of the lease {row.id} is being reset; retry in a moment"
    return Conflict(message, retry_after_seconds=1.0)


def _has_ended(row: LeaseRow) -> LeaseEnded:
    how = row.state if row.state not in LEASE_LIVE else LeaseState.EXPIRED
    when = f" at {row.ended_at:%Y-%m-%d %H:%M:%S}Z" if row.ended_at else ""
    return LeaseEnded(
        f"the lease {row.id} has ended: {how}{when}; acquire a new one", extra={"state": str(how)}
    )
