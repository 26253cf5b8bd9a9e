"""Leases, once they are granted (:mod:`~freshdb_service.leasing.acquire`): renew, keep, release, revoke, show."""

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
from freshdb_service.postgres import Leftovers, close_login
from freshdb_service.redis.deadlines import Deadline, Refusal, Renewal
from freshdb_service.redis.wakeups import WakeupReason
from freshdb_service.resources import Resources
from freshdb_service.store import leases as store_leases
from freshdb_service.store import reset_claims
from freshdb_service.store.audit_log import FRESHDB, Actor
from freshdb_service.store.rows import LeaseRow

_LOOK_SECONDS: Final = 1.0
_TRIES: Final = 5
"""So often a heartbeat is tried; each thing that Redis may not know comes once, unless it is lost again meanwhile."""
_TURN_SECONDS: Final = 0.25
"""Timeout of a release that waits for a worker slot. Without one, the login is closed and the database stays dirty for the
janitor, which is more work in total."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Released:
    """A lease that is over, and what its holder left open; ``None`` if that is not known."""

    lease: LeaseRow
    leftovers: Leftovers | None


@dataclass(frozen=True, slots=True)
class _GivenBack:
    """A lease that has ended; and what was left open, if the reset of its database has begun. Otherwise that is dirty."""

    lease: LeaseRow
    left: asyncio.Future[Leftovers | None] | None


class Leases:
    """What callers can do with leases that they have.

    Args:
        at: the resources of this replica.
        databases: resets what is released.
        turn_seconds: timeout of a release that waits for a worker slot to reset its database.
    """

    def __init__(
        self, resources: Resources, databases: ResetJobs, *, turn_seconds: float = _TURN_SECONDS
    ) -> None:
        self._resources = resources
        self._databases = databases
        self._turn_seconds = turn_seconds
        self._reminding = asyncio.Lock()

    async def renew(
        self, lease_id: UUID, *, principal: str, ttl_seconds: float | None, address: str | None = None
    ) -> Renewal:
        """Move the end of a lease to ``ttl_seconds`` from now (by default its own TTL), within its longest life.

        Touches Redis alone, unless Redis has forgotten the lease, or has started anew: then the control plane is asked, and
        what lives gets its deadline back. With a longer TTL than its own, the lease has that one from then on: the control
        plane notes it first, so that it is known whatever becomes of Redis.

        Raises:
            LeaseEnded, LeaseNotFound, Forbidden: as it says.
        """
        restored = False
        for _ in range(_TRIES):
            answer = await self._resources.deadlines.renew(
                lease_id, ttl_seconds=ttl_seconds, principal=principal
            )
            if isinstance(answer, Renewal):
                if restored and not await self._live(
                    lease_id
                ):  # it has ended between that look and the deadline
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
                await self.remind()
                continue
            if not (live := await self._live(lease_id)):
                break
            await self._resources.deadlines.restore(live, run_id=None)
        there = await self.get(lease_id)
        raise _over(there) if there.principal == principal else _forbidden(lease_id)

    async def remind(self) -> None:
        """Where Redis has started anew, or is another one, give every live lease its full TTL again."""
        async with self._reminding:
            run_id = await self._resources.deadlines.forgotten_in_run()
            if run_id is None:
                return
            live = await self._live()
            await self._resources.deadlines.restore(live, run_id=run_id)
        if live:
            _log.warning("Redis has started anew: %d leases got their full TTL again", len(live))

    async def _live(self, lease_id: UUID | None = None) -> list[Deadline]:
        async with self._resources.store.statement() as connection:
            live = await store_leases.live(connection, lease_id)
        return [Deadline(one.id, one.principal, one.ttl_seconds, one.remaining_seconds) for one in live]

    async def release(self, lease_id: UUID, *, principal: str, address: str | None = None) -> Released:
        """Give a lease back, and say what was left open. Releasing it again is no error.

        Raises:
            LeaseEnded: it has expired or was revoked.
            LeaseNotFound, Forbidden: as it says.
        """
        by = Actor(principal, address)
        return await self._end(lease_id, LeaseState.RELEASED, principal=principal, by=by)

    async def revoke(self, lease_id: UUID, *, reason: str, by: Actor = FRESHDB) -> Released:
        """Take a lease away from whoever has it.

        Raises:
            LeaseEnded: it is over already.
            LeaseNotFound: there is none.
        """
        return await self._end(lease_id, LeaseState.REVOKED, principal=None, by=by, reason=reason)

    async def expire(self, lease_id: UUID) -> None:
        """End a lease whose deadline has passed; nothing happens if it is over already."""
        given_back = await self._give_back(lease_id, LeaseState.EXPIRED, by=FRESHDB)
        await self._resources.deadlines.settle([lease_id], over=True)
        if given_back is not None:
            self._ended(given_back.lease)
            if given_back.left is None:
                await self._resources.wakeups.announce(WakeupReason.DIRTY)

    async def _end(
        self,
        lease_id: UUID,
        state: LeaseState,
        *,
        principal: str | None,
        by: Actor,
        reason: str | None = None,
    ) -> Released:
        given_back = await self._give_back(
            lease_id, state, principal=principal, by=by, reason=reason, wait_seconds=self._turn_seconds
        )
        if given_back is None:
            there = await self.get(lease_id)
            if there.state not in LEASE_LIVE:
                await self._settle(lease_id)  # whoever ended it may have died before this
            if principal is not None and there.principal != principal:
                raise _forbidden(lease_id)
            if there.state is LeaseState.RELEASED and state is LeaseState.RELEASED:
                return Released(there, None)
            raise _over(there)
        await self._settle(lease_id)
        leftovers = await self._closed(given_back)
        self._ended(given_back.lease, leftovers)
        return Released(given_back.lease, leftovers)

    async def _settle(self, lease_id: UUID) -> None:
        """Forget the deadline of a lease that has ended; without Redis, the reaper does so when it passes."""
        try:
            await self._resources.deadlines.settle([lease_id], over=True)
        except BackendUnavailable as error:
            _log.warning("the deadline of lease %s stays for the reaper: %s", lease_id, error)

    async def _give_back(
        self,
        lease_id: UUID,
        state: LeaseState,
        *,
        by: Actor,
        principal: str | None = None,
        reason: str | None = None,
        wait_seconds: float = 0.0,
    ) -> _GivenBack | None:
        """End a live lease; and begin to reset its database, unless this replica has its hands full for so long."""
        async with self._databases.resets.promised(wait_seconds) as promised:
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
                claim=claim if promised else None,
            )
            if ended is None:
                return None
            left = None if ended.used is None else self._databases.begin_reset(ended.used)
            return _GivenBack(ended.lease, left)

    async def _closed(self, given_back: _GivenBack) -> Leftovers | None:
        """See that the login of a lease that has ended is closed.

        Returns:
            what its holder left open; ``None`` if the server does not say so at once. The reset sees to it in any case.
        """
        lease = given_back.lease
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                left = None if given_back.left is None else await asyncio.shield(given_back.left)
                return left or await close_login(self._resources.server(lease.server), lease.login)
        except (BackendUnavailable, TimeoutError):
            return None
        finally:
            if given_back.left is None:
                await self._resources.wakeups.announce(WakeupReason.DIRTY)

    def _ended(self, row: LeaseRow, leftovers: Leftovers | None = None) -> None:
        self._resources.metrics.ended(row.state)
        left = {} if leftovers is None else {"leftovers": leftovers.to_json()}
        self._resources.events.emit(f"lease.{row.state}", **facts(row), **left)

    async def reset(self, lease_id: UUID, *, principal: str, address: str | None = None) -> Granted:
        """Make the database of an active lease clean, for the same lease; whoever is connected to it is thrown out.

        The lease gets a new generation with a login of its own, and, if its database had to be rebuilt, a new database.

        Raises:
            LeaseEnded, LeaseNotFound, Forbidden: as it says.
            Conflict: it is kept for a look, or being reset at this moment.
            BackendUnavailable: it could not be made clean; asking again is safe.
        """
        await self._databases.in_place.acquire()
        # Whoever asked may go away meanwhile: what was begun is done.
        if not await asyncio.shield(self._reset_in_place(lease_id, principal, address)):
            there = await self.get(lease_id)
            if there.principal == principal and there.state is LeaseState.KEPT:
                message = f"the lease {lease_id} is kept for a look: what is in its database would be lost"
                raise Conflict(message)
            raise _refused(there, principal)
        granted = await self.show(lease_id)
        if granted.lease.state not in LEASE_LIVE:
            raise _over(granted.lease)
        return granted

    async def _reset_in_place(self, lease_id: UUID, principal: str, address: str | None = None) -> bool:
        """With one of the hands for it, which is free again afterwards; ``False`` if it is not there to be reset."""
        try:
            used = await reset_claims.claim_leased(
                self._resources.store,
                lease_id,
                principal,
                claim_seconds=self._resources.settings.claim_seconds,
                address=address,
            )
            if used is not None:
                await self._databases.reset_leased(used)
            return used is not None
        finally:
            self._databases.in_place.release()

    async def keep(
        self,
        lease_id: UUID,
        *,
        principal: str,
        ttl_seconds: float,
        reason: str | None,
        address: str | None = None,
    ) -> Granted:
        """Hold a lease's database back for a look, for ``ttl_seconds`` from now. It can be kept again, for longer.

        Raises:
            LeaseEnded, LeaseNotFound, Forbidden: as it says.
            Conflict: it is being reset at this moment.
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
        """One lease.

        Raises:
            LeaseNotFound: there is none.
        """
        async with self._resources.store.statement() as connection:
            row = await store_leases.get(connection, lease_id)
        if row is None:
            message = f"there is no lease {lease_id}"
            raise LeaseNotFound(message)
        return row

    async def show(self, lease_id: UUID) -> Granted:
        """One lease and when it ends; with its password while it lives.

        Raises:
            LeaseNotFound: there is none.
        """
        row = await self.get(lease_id)
        [expires_at] = await self._resources.deadlines.expiry([lease_id])
        return Granted(row, expires_at if row.state in LEASE_LIVE else None)

    async def listing(
        self, wanted: store_leases.LeaseFilter, *, limit: int, after: tuple[datetime, UUID] | None
    ) -> list[Granted]:
        """Leases in the order of their granting, without passwords."""
        async with self._resources.store.statement() as connection:
            rows = await store_leases.listing(connection, wanted, limit=limit, after=after)
        expiry = await self._resources.deadlines.expiry([row.id for row in rows])
        return [
            Granted(row, when if row.state in LEASE_LIVE else None)
            for row, when in zip(rows, expiry, strict=True)
        ]


def _forbidden(lease_id: UUID) -> Forbidden:
    return Forbidden(f"the lease {lease_id} belongs to somebody else; only who acquired it can do this")


def _refused(row: LeaseRow, principal: str) -> FreshdbError:
    """Why nothing can be done to a lease's database now."""
    if row.principal != principal:
        return _forbidden(row.id)
    if row.state not in LEASE_LIVE:
        return _over(row)
    message = f"the lease {row.id} is being reset at this moment; ask again"
    return Conflict(message, retry_after_seconds=1.0)


def _over(row: LeaseRow) -> LeaseEnded:
    how = row.state if row.state not in LEASE_LIVE else LeaseState.EXPIRED
    when = f" at {row.ended_at:%Y-%m-%d %H:%M:%S}Z" if row.ended_at else ""
    return LeaseEnded(
        f"the lease {row.id} is over: {how}{when}; acquire a new one", extra={"state": str(how)}
    )
