"""Acquiring leases: at once if a database is ready, else through the pool's queue.

If a database is ready, acquire takes two round trips. The first one, to Redis, admits the caller unless others wait for this
pool, and writes the deadlines of the leases to come. The second one, to the control plane, is the grant: one statement. The
deadline comes first, so no lease is ever without one. If no database is ready, the caller enters the pool's queue
(:mod:`~freshdb_service.redis.queue`). Only the head of the queue tries again.

If the answer to a grant is lost, the caller finds its leases again by the idempotency key. Without a key they end by their
TTL.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from time import monotonic
from uuid import UUID, uuid4

from freshdb_service.errors import (
    BackendUnavailable,
    FreshdbError,
    IdempotencyMismatch,
    LeaseEnded,
    PoolExhausted,
    QuotaExceeded,
    ShuttingDown,
)
from freshdb_service.leasing.acquire_request import AcquireCall, AcquireRequest, hash_of
from freshdb_service.leasing.pool_lookup import PoolLookup
from freshdb_service.leasing.quotas import max_lifetime, over_quota, token_ended, too_many
from freshdb_service.lifecycle import LEASE_LIVE
from freshdb_service.redis.queue import Gone, Waiter
from freshdb_service.redis.wakeups import WakeupReason
from freshdb_service.resources import Resources
from freshdb_service.store import leases as store_leases
from freshdb_service.store import pools as store_pools
from freshdb_service.store import tokens as store_tokens
from freshdb_service.store.connection import ConstraintViolated
from freshdb_service.store.grant import (
    GrantShare,
    GrantTerms,
    OutOfDate,
    OverQuota,
    TokenEnded,
    check_token,
    grant,
)
from freshdb_service.store.rows import LeaseRow
from freshdb_service.store.tokens import TokenRow

_FULL_SECONDS = 2.0
_TICKET_SECONDS = 15.0
"""Time for which a place in the queue is kept after a timeout, for a retry with the same idempotency key."""


async def _never() -> None:
    await asyncio.Event().wait()


def _ignore() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Granted:
    """A lease, and when it ends."""

    lease: LeaseRow
    expires_at: datetime | None


class Acquirer:
    """Grants leases."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._lookup = PoolLookup(resources)
        self.requested: set[UUID] = set()
        """Pools that were requested. The replenisher writes them to the control plane and empties the set."""

    async def acquire(
        self,
        wanted: Sequence[AcquireRequest],
        *,
        principal: str,
        wait_seconds: float,
        idempotency_key: str | None = None,
        gone: Gone = _never,
        on_wait: Callable[[], None] = _ignore,
        token: TokenRow | None = None,
        address: str | None = None,
    ) -> list[Granted]:
        """Grant all requested leases, or none.

        Args:
            wanted: one or several requests.
            principal: the caller. Only it can renew, keep and release the leases.
            wait_seconds: timeout for the queue when no database is ready.
            idempotency_key: the same key gets the same leases again.
            gone: returns when the caller has hung up. The call then leaves the queue.
            on_wait: called when the call begins to wait in a queue.
            token: the token whose quotas the leases count for.
            address: the caller's address, for the audit log.

        Raises:
            TemplateNotFound, TemplateBuilding, TemplateFailed: there is no template to clone from.
            IsolationUnsupported: the template does not support this isolation.
            PoolExhausted: no database became free in time.
            QuotaExceeded: a quota of the token, or the pool's ``max_size``, does not allow as many leases.
            Unauthorized: the token has expired or was revoked.
            IdempotencyMismatch: the key was used for another request.
            LeaseEnded: the key's leases have ended.
            ShuttingDown: this replica is stopping.
        """
        if self._resources.stopping.is_set():
            raise _stopping()
        began = monotonic()
        terms = GrantTerms(
            principal=principal,
            max_ttl_seconds=max_lifetime(self._resources.settings.max_ttl_seconds, token),
            idempotency_key=idempotency_key,
            request_hash=hash_of(wanted) if idempotency_key is not None else None,
            token_id=None if token is None else token.id,
            address=address,
        )
        granted: list[Granted] | None = None
        while granted is None:
            call = await self._call(wanted, terms)
            try:
                async with self._settled_unless_granted(call):
                    granted = (
                        await self._grant_ready(call)
                        or await self._granted_before(call)
                        or await self._grant_in_turn(call, began + wait_seconds, gone, on_wait)
                    )
            except OutOfDate:
                for request in wanted:
                    self._lookup.forget(request.template, request.isolation)
        waited = monotonic() - began
        for one in granted:
            self._resources.metrics.granted(one.lease.isolation, waited)
            self._resources.history.granted(one.lease.pool_id, waited)
            self._resources.events.emit("lease.acquired", **facts(one.lease))
        return granted

    async def _call(self, wanted: Sequence[AcquireRequest], terms: GrantTerms) -> AcquireCall:
        """Find the pools, and combine equal requests that follow each other into one share."""
        call = AcquireCall(terms)
        for index, request in enumerate(wanted):
            if call.wanted and call.wanted[-1] == request:
                last = call.shares[-1]
                call.shares[-1] = replace(last, lease_ids=(*last.lease_ids, uuid4()))
                continue
            pool_id = await self._lookup.find(request.template, request.isolation)
            share = GrantShare(
                pool_id,
                (uuid4(),),
                request.pinned,
                index,
                request.ttl_seconds,
                request.holder,
                request.labels,
            )
            call.wanted.append(request)
            call.shares.append(share)
            self.requested.add(pool_id)
        return call

    @asynccontextmanager
    async def _settled_unless_granted(self, call: AcquireCall) -> AsyncIterator[None]:
        """Remove the deadlines of a call's leases after the block, unless the leases were granted.

        Refusals of the token become the errors of the API here.

        If a backend is unavailable or the call is cancelled, the leases may have been granted. Their deadlines stay, and the
        reaper ends or removes them.
        """
        try:
            yield
        except BackendUnavailable:
            raise
        except (FreshdbError, OutOfDate, OverQuota, TokenEnded) as error:
            await self._resources.deadlines.settle(call.lease_ids)
            if isinstance(error, OverQuota):
                raise too_many(error, call.terms.principal, len(call.lease_ids)) from None
            if isinstance(error, TokenEnded):
                raise token_ended() from None
            raise
        if not call.granted:
            await self._resources.deadlines.settle(call.lease_ids)

    async def _grant_ready(self, call: AcquireCall, *, at_head: bool = False) -> list[Granted] | None:
        """Grant ready databases, or return ``None`` if too few are ready or other callers wait already.

        Raises:
            OutOfDate: another pool serves this template now.
            OverQuota: the token has too many leases.
            TokenEnded: the token has expired or was revoked.
        """
        expires_at: list[datetime] = []
        for share in call.shares:
            admission = await self._resources.deadlines.admit(
                share.pool_id,
                share.lease_ids,
                ttl_seconds=share.ttl_seconds,
                max_ttl_seconds=call.terms.max_ttl_seconds,
                principal=call.terms.principal,
                at_head=at_head,
            )
            call.tickets.setdefault(share.pool_id, admission.ticket)
            if not admission.admitted:
                call.waiting = admission.waiting
                return None
            expires_at += [admission.expires_at] * len(share.lease_ids)
        try:
            rows = await grant(self._resources.store, call.terms, call.shares)
        except ConstraintViolated:
            return await self._granted_before(call)
        except OverQuota:
            if (before := await self._granted_before(call)) is not None:
                return before
            raise
        if rows is None:
            return None
        call.granted = True
        return [Granted(row, when) for row, when in zip(rows, expires_at, strict=True)]

    async def _grant_in_turn(
        self, call: AcquireCall, until: float, gone: Gone, on_wait: Callable[[], None]
    ) -> list[Granted]:
        """Wait in the queues of the pools, in a fixed order, until the call is the head of all of them, then grant.

        Raises:
            OutOfDate: another pool serves this template now.
            OverQuota: the token has too many leases.
            TokenEnded: the token has expired or was revoked.
        """
        if call.terms.token_id is not None:  # before the queue, and again by the grant
            await check_token(self._resources.store, call.terms.token_id, len(call.lease_ids))
        await self._check_sizes(call)
        await self._check_queue(call)
        self._resources.wakeups.nudge(WakeupReason.DEMAND)
        async with AsyncExitStack() as stack:
            waiter: Waiter | None = None
            for pool_id in call.pools:
                if waiter is not None:
                    await self._wait_for_turn(call, waiter, until)
                ticket = await self._ticket(call, pool_id, until)
                waiter = await stack.enter_async_context(
                    self._resources.queue.waiting(
                        pool_id,
                        ticket,
                        wanted=call.wanted_of(pool_id),
                        principal=call.terms.principal,
                        holder=call.shares[0].holder,
                    )
                )
                stack.enter_context(waiter.unless(gone))
                on_wait()
            if waiter is None:
                message = "a call without requests"
                raise ValueError(message)
            while True:
                await self._wait_for_turn(call, waiter, until)
                granted = await self._grant_ready(call, at_head=True)
                if granted is not None:
                    return granted
                await self._check_sizes(call)

    async def _check_sizes(self, call: AcquireCall) -> None:
        """Check that no pool is smaller than the call's share of it. A share of one database always fits.

        Raises:
            QuotaExceeded: a pool is smaller.
        """
        for pool_id in call.pools:
            if (number := call.wanted_of(pool_id)) == 1:
                continue
            async with self._resources.store.statement() as connection:
                pool = await store_pools.get(connection, pool_id)
            if pool is not None and number > pool.max_size:
                raise QuotaExceeded(
                    f"{number} databases at once are more than the pool of {pool.template} may hold ({pool.max_size}); "
                    "ask for fewer, or raise its max_size",
                    retry_after_seconds=1.0,
                )

    async def _check_queue(self, call: AcquireCall) -> None:
        """Check that the queue has room, unless the call has a place in it already.

        A caller that would wait in vain gets the error at once, and not after its timeout.

        Raises:
            PoolExhausted: the queue is full.
        """
        limit = self._resources.settings.max_waiters
        if call.waiting < limit:
            return
        if call.owner is not None:
            for pool_id in call.pools:
                if await self._resources.queue.has_ticket(pool_id, call.owner):
                    return
        raise PoolExhausted(
            f"queue full: {call.waiting} callers wait (max_waiters={limit}); retry later, release leases, or raise the "
            "pool's max_size",
            retry_after_seconds=_FULL_SECONDS,
            extra={"queue_position": 0, "queue_length": call.waiting},
        )

    async def _ticket(self, call: AcquireCall, pool_id: UUID, until: float) -> int:
        """Place in a pool's queue. With an idempotency key it is kept from one call to the next."""
        ticket = call.ticket(pool_id)
        if call.owner is None:
            return ticket
        keep_seconds = max(0.0, until - monotonic()) + _TICKET_SECONDS
        return await self._resources.queue.ticket_again(pool_id, call.owner, ticket, keep_seconds)

    async def _wait_for_turn(self, call: AcquireCall, waiter: Waiter, until: float) -> None:
        """Wait until this waiter is the head of its queue and a database may have become free.

        Waiters do not poll. With a thousand of them, polling would take all of the time.

        Raises:
            PoolExhausted: the timeout has passed, or the caller has hung up.
            ShuttingDown: this replica is stopping.
        """
        its_turn = not self._resources.stopping.is_set() and await waiter.turn(max(0.0, until - monotonic()))
        if self._resources.stopping.is_set():
            raise _stopping()
        if not its_turn:
            raise await self._exhausted(waiter, call.terms.token_id)

    async def _exhausted(self, waiter: Waiter, token_id: UUID | None) -> PoolExhausted | QuotaExceeded:
        place = await self._resources.queue.place(waiter.pool_id, waiter)
        async with self._resources.store.statement() as connection:
            pool = await store_pools.get(connection, waiter.pool_id)
            hit = await store_tokens.hit_by_pool(connection, waiter.pool_id)
        if hit is not None and hit.token_id == token_id:
            return over_quota(hit, "no database became free in time, and no more may be created")
        why = f"; creating one failed: {pool.last_error}" if pool is not None and pool.last_error else ""
        why += f"; the quota {hit.quota} of the token {hit.token!r} leaves no room for another" if hit else ""
        name = f"{pool.template} ({pool.isolation})" if pool is not None else "the pool"
        most = f" of at most {pool.max_size}" if pool is not None else ""
        message = (
            f"no database of {name} became free in time: place {place.position} of {place.waiting} in the queue{why}; "
            f"wait longer (wait_seconds), release leases, or raise the pool's max_size{most}"
        )
        return PoolExhausted(
            message,
            retry_after_seconds=1.0,
            extra={"queue_position": place.position, "queue_length": place.waiting},
        )

    async def _granted_before(self, call: AcquireCall) -> list[Granted] | None:
        """Return the leases that this idempotency key got before, or ``None``."""
        terms = call.terms
        if terms.idempotency_key is None:
            return None
        async with self._resources.store.statement() as connection:
            rows = await store_leases.by_idempotency_key(connection, terms.principal, terms.idempotency_key)
        if not rows:
            return None
        if any(row.request_hash != terms.request_hash for row in rows):
            message = (
                "this Idempotency-Key was used before with another body; use a new key for a new request"
            )
            raise IdempotencyMismatch(message)
        if any(row.state not in LEASE_LIVE for row in rows):
            message = "the lease of this Idempotency-Key has ended; use a new key for a new lease"
            raise LeaseEnded(message)
        expiry = await self._resources.deadlines.expiry([row.id for row in rows])
        return [Granted(row, when) for row, when in zip(rows, expiry, strict=True)]


def facts(row: LeaseRow) -> dict[str, object]:
    """Fields of a lease's events. None is secret."""
    return {
        "lease": row.id,
        "pool": row.pool_id,
        "database_id": row.database_id,
        "template": row.template,
        "isolation": row.isolation,
        "database": row.database_name,
        "generation": row.generation,
        "principal": row.principal,
        "holder": dict(row.holder),
    }


def _stopping() -> ShuttingDown:
    return ShuttingDown("this replica is stopping; retry", retry_after_seconds=1.0)
