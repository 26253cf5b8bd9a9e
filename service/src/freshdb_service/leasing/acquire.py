"""Acquiring leases: at once if something is ready, else in turn.

Acquire, when a database is ready, is two round trips: one to Redis (may I go ahead of nobody; if so, here are the deadlines
of the leases to come) and one to the control plane (the grant, one statement). The deadline is written first, so that no
lease is ever without one. When nothing is ready the caller stands in the pool's queue (:mod:`~freshdb_service.redis.queue`);
only the head of the queue tries again.

A grant whose answer was lost is found again by its idempotency key; without a key it ends by its TTL.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from time import monotonic
from uuid import UUID, uuid4

from freshdb_service.errors import (
    IdempotencyMismatch,
    LeaseEnded,
    PoolExhausted,
    QuotaExceeded,
    ShuttingDown,
)
from freshdb_service.leasing.acquire_request import AcquireRequest, PoolRequest, hash_of, owner_of
from freshdb_service.leasing.pool_lookup import PoolLookup
from freshdb_service.leasing.quotas import longest_life, over_quota, token_over, too_many
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
"""How long a caller whose wait is over may take to ask again, with the same idempotency key, and keep its place."""


async def _never() -> None:
    await asyncio.Event().wait()


def _at_work() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Granted:
    """A lease, and when it ends."""

    lease: LeaseRow
    expires_at: datetime | None


class Acquirer:
    """Grants leases to whoever asks."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._targets = PoolLookup(resources)
        self.asked_for: set[UUID] = set()
        """Pools that databases were asked of; the replenisher notes it in the control plane and empties the set."""

    async def acquire(
        self,
        wanted: Sequence[AcquireRequest],
        *,
        principal: str,
        wait_seconds: float,
        idempotency_key: str | None = None,
        gone: Gone = _never,
        resting: Callable[[], None] = _at_work,
        token: TokenRow | None = None,
        address: str | None = None,
    ) -> list[Granted]:
        """Grant all that is wanted, or nothing.

        Args:
            wanted: one or several.
            principal: who asks; only they can renew, keep and release.
            wait_seconds: how long to stand in the queue when nothing is ready.
            idempotency_key: the same key gets the same leases again.
            gone: returns once the caller has gone: then nobody waits any longer.
            resting: called when nothing is done for this call but to wait.
            token: whose quotas it counts for.
            address: where the caller is, for the trail.

        Raises:
            TemplateNotFound, TemplateBuilding, TemplateFailed: there is nothing to clone from.
            IsolationUnsupported: the template cannot be leased like this.
            PoolExhausted: nothing came free in time.
            QuotaExceeded: the token may not have so much, or the pool.
            Unauthorized: the token is over by now.
            IdempotencyMismatch, LeaseEnded: the key was used for something else, or its leases are over.
            ShuttingDown: this replica is stopping.
        """
        if self._resources.stopping.is_set():
            raise _stopping()
        began = monotonic()
        until = began + wait_seconds
        granted: list[Granted] | None = None
        said = GrantTerms(
            principal=principal,
            holder={},
            labels={},
            ttl_seconds=0.0,
            max_ttl_seconds=longest_life(self._resources.settings.max_ttl_seconds, token),
            idempotency_key=idempotency_key,
            request_hash=hash_of(wanted) if idempotency_key is not None else None,
            token_id=None if token is None else token.id,
            address=address,
        )
        while granted is None:
            order = await self._order(wanted, said)
            try:
                granted = (
                    await self._try(order)
                    or await self._replayed(order)
                    or await self._in_turn(order, until, gone, resting)
                )
            except OutOfDate:
                await self._resources.deadlines.settle(order.lease_ids)
                for request in wanted:
                    self._targets.forget(request.template, request.isolation)
        waited = monotonic() - began
        for one in granted:
            self._resources.metrics.granted(one.lease.isolation, waited)
            self._resources.history.granted(one.lease.pool_id, waited)
            self._resources.events.emit("lease.acquired", **facts(one.lease))
        return granted

    async def _order(self, wanted: Sequence[AcquireRequest], said: GrantTerms) -> PoolRequest:
        """Put requests that are alike, and follow each other, into one share; ``said`` is what they have in common."""
        order = PoolRequest([], [])
        for index, request in enumerate(wanted):
            if order.wanted and order.wanted[-1] == request:
                last = order.shares[-1]
                order.shares[-1] = replace(last, lease_ids=(*last.lease_ids, uuid4()))
                continue
            terms = replace(
                said, holder=request.holder, labels=request.labels, ttl_seconds=request.ttl_seconds
            )
            pool_id = await self._targets.find(request.template, request.isolation)
            order.wanted.append(request)
            order.shares.append(GrantShare(pool_id, (uuid4(),), request.pinned, index, terms))
            self.asked_for.add(pool_id)
        return order

    async def _try(self, order: PoolRequest, *, at_head: bool = False) -> list[Granted] | None:
        """Grant what is ready; ``None`` if that is too little, or others were here before.

        Raises:
            OutOfDate: another pool is the one to take from by now.
        """
        expires_at: list[datetime] = []
        for share in order.shares:
            admission = await self._resources.deadlines.admit(
                share.pool_id,
                share.lease_ids,
                ttl_seconds=share.terms.ttl_seconds,
                max_ttl_seconds=share.terms.max_ttl_seconds,
                principal=share.terms.principal,
                at_head=at_head,
            )
            order.tickets.setdefault(share.pool_id, admission.ticket)
            if not admission.admitted:
                order.waiting = admission.waiting
                return None
            expires_at += [admission.expires_at] * len(share.lease_ids)
        try:
            rows = await grant(self._resources.store, order.shares)
        except ConstraintViolated:
            return await self._replayed(order)
        except OverQuota as over:
            if (replayed := await self._replayed(order)) is not None:
                return replayed
            await self._resources.deadlines.settle(order.lease_ids)
            raise too_many(over, order.shares[0].terms.principal, len(order.lease_ids)) from None
        except TokenEnded:
            await self._resources.deadlines.settle(order.lease_ids)
            raise token_over() from None
        if rows is None:
            return None
        return [Granted(row, when) for row, when in zip(rows, expires_at, strict=True)]

    async def _in_turn(
        self, order: PoolRequest, until: float, gone: Gone, resting: Callable[[], None]
    ) -> list[Granted]:
        """Stand in the queues of the pools, in a fixed order, until it is this caller's turn in all of them.

        Raises:
            OutOfDate: another pool is the one to take from by now.
        """
        await self._check_quota(order)
        await self._check_sizes(order)
        await self._check_queue(order)
        self._resources.wakeups.nudge(WakeupReason.DEMAND)
        async with AsyncExitStack() as stack:
            waiter: Waiter | None = None
            for pool_id in order.pools:
                if waiter is not None:
                    await self._until_first(order, waiter, until)
                ticket = await self._ticket(order, pool_id, until)
                waiter = await stack.enter_async_context(
                    self._resources.queue.waiting(
                        pool_id,
                        ticket,
                        wanted=order.wanted_of(pool_id),
                        principal=order.shares[0].terms.principal,
                        holder=order.shares[0].terms.holder,
                    )
                )
                stack.enter_context(waiter.unless(gone))
                resting()
            if waiter is None:
                message = "an order without shares"
                raise ValueError(message)
            while True:
                await self._until_first(order, waiter, until)
                granted = await self._try(order, at_head=True)
                if granted is not None:
                    return granted
                await self._check_sizes(order)

    async def _check_quota(self, order: PoolRequest) -> None:
        """See, before standing in a queue, that the token may have what would come free. The grant decides.

        Raises:
            QuotaExceeded: it may not.
            Unauthorized: the token is over.
        """
        terms = order.shares[0].terms
        if terms.token_id is None:
            return
        try:
            await check_token(self._resources.store, terms.token_id, len(order.lease_ids))
        except OverQuota as over:
            await self._resources.deadlines.settle(order.lease_ids)
            raise too_many(over, order.shares[0].terms.principal, len(order.lease_ids)) from None
        except TokenEnded:
            await self._resources.deadlines.settle(order.lease_ids)
            raise token_over() from None

    async def _check_sizes(self, order: PoolRequest) -> None:
        """See that what one call wants of a pool at once can ever be there. One database always can.

        Raises:
            QuotaExceeded: it cannot.
        """
        for pool_id in order.pools:
            if (number := order.wanted_of(pool_id)) == 1:
                continue
            async with self._resources.store.statement() as connection:
                pool = await store_pools.get(connection, pool_id)
            if pool is not None and number > pool.max_size:
                await self._resources.deadlines.settle(order.lease_ids)
                raise QuotaExceeded(
                    f"{number} databases at once are more than the pool of {pool.template} may hold ({pool.max_size}); "
                    "ask for fewer, or raise its max_size",
                    retry_after_seconds=1.0,
                )

    async def _check_queue(self, order: PoolRequest) -> None:
        """See that the queue is not too long to stand in, unless this caller has a place in it.

        Who would wait in vain is told at once, and not when its time is over.

        Raises:
            PoolExhausted: it is too long.
        """
        most = self._resources.settings.max_waiters
        if order.waiting < most:
            return
        terms = order.shares[0].terms
        for pool_id in order.pools:
            if terms.idempotency_key is not None and await self._resources.queue.has_ticket(
                pool_id, owner_of(terms.principal, terms.idempotency_key)
            ):
                return
        await self._resources.deadlines.settle(order.lease_ids)
        raise PoolExhausted(
            f"{order.waiting} callers wait already, as many as may (max_waiters is {most}); come again, release leases, or "
            "raise the pool's max_size",
            retry_after_seconds=_FULL_SECONDS,
            extra={"queue_position": 0, "queue_length": order.waiting},
        )

    async def _ticket(self, order: PoolRequest, pool_id: UUID, until: float) -> int:
        """The place in a pool's queue; with an idempotency key it is kept from one request to the next."""
        terms, ticket = order.shares[0].terms, order.ticket(pool_id)
        if terms.idempotency_key is None:
            return ticket
        owner = owner_of(terms.principal, terms.idempotency_key)
        keep_seconds = max(0.0, until - monotonic()) + _TICKET_SECONDS
        return await self._resources.queue.ticket_again(pool_id, owner, ticket, keep_seconds)

    async def _until_first(self, order: PoolRequest, waiter: Waiter, until: float) -> None:
        """Wait until this waiter is at the head of its queue and something may have come free.

        Nobody looks again and again meanwhile: with a thousand waiters, looking would be all that is done.

        Raises:
            PoolExhausted: the caller's time is over, or it has gone.
            ShuttingDown: this replica is stopping.
        """
        its_turn = not self._resources.stopping.is_set() and await waiter.turn(max(0.0, until - monotonic()))
        if self._resources.stopping.is_set():
            await self._resources.deadlines.settle(order.lease_ids)
            raise _stopping()
        if not its_turn:
            await self._resources.deadlines.settle(order.lease_ids)
            raise await self._exhausted(waiter, order.shares[0].terms.token_id)

    async def _exhausted(self, waiter: Waiter, token_id: UUID | None) -> PoolExhausted | QuotaExceeded:
        place = await self._resources.queue.place(waiter.pool_id, waiter)
        async with self._resources.store.statement() as connection:
            pool = await store_pools.get(connection, waiter.pool_id)
            hit = await store_tokens.hit_by_pool(connection, waiter.pool_id)
        if hit is not None and hit.token_id == token_id:
            return over_quota(hit, "no database came free in time, and none more may be made")
        why = f"; making one failed: {pool.last_error}" if pool is not None and pool.last_error else ""
        why += f"; the quota {hit.quota} of the token {hit.token!r} leaves no room for another" if hit else ""
        name = f"{pool.template} ({pool.isolation})" if pool is not None else "the pool"
        most = f" of at most {pool.max_size}" if pool is not None else ""
        message = (
            f"no database of {name} came free in time: place {place.position} of {place.waiting} in the queue{why}; "
            f"wait longer (wait_seconds), release leases, or raise the pool's max_size{most}"
        )
        return PoolExhausted(
            message,
            retry_after_seconds=1.0,
            extra={"queue_position": place.position, "queue_length": place.waiting},
        )

    async def _replayed(self, order: PoolRequest) -> list[Granted] | None:
        """The leases that this idempotency key has got before, if any."""
        terms = order.shares[0].terms
        if terms.idempotency_key is None:
            return None
        async with self._resources.store.statement() as connection:
            rows = await store_leases.by_idempotency_key(connection, terms.principal, terms.idempotency_key)
        if not rows:
            return None
        await self._resources.deadlines.settle(order.lease_ids)
        if any(row.request_hash != terms.request_hash for row in rows):
            message = (
                "this Idempotency-Key was used before with another body; use a new key for a new request"
            )
            raise IdempotencyMismatch(message)
        if any(row.state not in LEASE_LIVE for row in rows):
            message = "the lease that this Idempotency-Key got is over; use a new key for a new lease"
            raise LeaseEnded(message)
        expiry = await self._resources.deadlines.expiry([row.id for row in rows])
        return [Granted(row, when) for row, when in zip(rows, expiry, strict=True)]


def facts(row: LeaseRow) -> dict[str, object]:
    """What events say of a lease; nothing secret."""
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
    return ShuttingDown("this replica is stopping; ask again", retry_after_seconds=1.0)
