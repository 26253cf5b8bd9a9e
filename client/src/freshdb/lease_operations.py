"""Operations on leases, as flows.

A wait is long polling in requests of at most `poll_seconds`, which is shorter than the timeout of a usual proxy. All
requests and retries of one acquire have the same ``Idempotency-Key``, so that it leases only one database.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from freshdb import json_fields
from freshdb.errors import Conflict, PoolExhausted
from freshdb.messages import Pause, ServiceCall, decode, encode, path, problem
from freshdb.models import (
    DEFAULT_KEEP_SECONDS,
    DEFAULT_TTL_SECONDS,
    DEFAULT_WAIT_SECONDS,
    Isolation,
    Lease,
    LeaseRequest,
    Leftovers,
    Renewal,
)
from freshdb.operations_base import OperationsBase
from freshdb.retry import TimedAnswer, exchange

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from freshdb.messages import Flow

_SHORTEST_PAUSE_SECONDS: Final = 0.25
_RESET_SECONDS: Final = 60.0
"""Extra timeout for a reset, because the service may have to recreate the database."""


@dataclass(frozen=True, slots=True)
class Granted:
    """A lease, its TTL and the start of the TTL. If `repeated`, an earlier request may have acquired it."""

    lease: Lease
    ttl_seconds: float
    counted_from: float
    repeated: bool


class LeaseOperations(OperationsBase):
    """The operations on leases."""

    __slots__ = ()

    def acquire(
        self,
        template: str,
        *,
        isolation: Isolation = "database",
        ttl_seconds: float = DEFAULT_TTL_SECONDS,
        wait_seconds: float = DEFAULT_WAIT_SECONDS,
        holder: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> Flow[Lease]:
        """Lease a clean database, without heartbeats. The caller renews and releases it.

        Args:
            template: ``name`` (the newest ready one) or ``name@fingerprint``.
            isolation: ``database`` for a separate database, or ``schema`` for a separate schema.
            ttl_seconds: lifetime of the lease without renewal.
            wait_seconds: timeout in the queue, of any length.
            holder: description of the holder, shown in lists of leases.
            labels: more names and values to find the lease by.
            idempotency_key: requests with the same key get the same lease. Default: a new key.

        Raises:
            PoolExhausted: no database became free within the wait.
            TemplateNotFound: there is no such template.
            TemplateBuilding: the template is not ready yet.
            IsolationUnsupported: the template does not support this isolation. `reasons` has the obstacles.
        """
        request = LeaseRequest(template, isolation, ttl_seconds, wait_seconds, holder or {}, labels or {})
        granted = yield from self.grant(request, idempotency_key)
        return granted.lease

    def grant(self, request: LeaseRequest, idempotency_key: str | None = None) -> Flow[Granted]:
        """Acquire a lease, and return it with the start of its TTL."""
        key = idempotency_key or str(uuid.uuid4())

        def slice_of(wait_seconds: float) -> ServiceCall:
            content = encode(request.to_wire(wait_seconds=wait_seconds))
            return ServiceCall(
                "POST", "/v1/leases", content, {"Idempotency-Key": key}, extra_seconds=wait_seconds
            )

        done = yield from self._queue(slice_of, request.wait_seconds)
        lease = Lease.from_wire(json_fields.members(decode(done.answer)))
        return Granted(
            lease, lease.ttl_seconds, done.counted_from, done.repeated or idempotency_key is not None
        )

    def resume(self, lease: Lease) -> Flow[Granted]:
        """Renew a lease that was acquired before, and return it with the start of its TTL."""
        done = yield from exchange(self.renewal(lease.id), self.policy)
        renewal = Renewal.from_wire(json_fields.members(decode(done.answer)))
        return Granted(lease, renewal.ttl_seconds, done.counted_from, repeated=False)

    def acquire_batch(
        self, requests: Sequence[LeaseRequest], *, idempotency_key: str | None = None
    ) -> Flow[list[Lease]]:
        """Lease several databases at once, all or none. The longest `wait_seconds` counts.

        Raises:
            PoolExhausted: not all of them became free within the wait.
        """
        key = idempotency_key or str(uuid.uuid4())
        wait_seconds = max((one.wait_seconds for one in requests), default=0.0)

        def slice_of(wait_seconds: float) -> ServiceCall:
            bodies = [one.to_wire(wait_seconds=min(one.wait_seconds, wait_seconds)) for one in requests]
            content = encode({"leases": bodies})
            return ServiceCall(
                "POST", "/v1/leases/batch", content, {"Idempotency-Key": key}, extra_seconds=wait_seconds
            )

        done = yield from self._queue(slice_of, wait_seconds)
        found, _ = json_fields.items(decode(done.answer))
        return [Lease.from_wire(one) for one in found]

    def renew(self, lease_id: str, *, ttl_seconds: float | None = None) -> Flow[Renewal]:
        """Extend a lease from now. The granted TTL may be shorter than the requested one.

        Raises:
            LeaseEnded: the lease has ended.
        """
        found = yield from self._ask(self.renewal(lease_id, ttl_seconds=ttl_seconds))
        return Renewal.from_wire(json_fields.members(found))

    def renewal(self, lease_id: str, *, ttl_seconds: float | None = None) -> ServiceCall:
        """Build the request that renews a lease."""
        body = {} if ttl_seconds is None else {"ttl_seconds": ttl_seconds}
        return ServiceCall("POST", path("/v1/leases/{}/renew", lease_id), encode(body))

    def release(self, lease_id: str) -> Flow[Lease]:
        """Release a lease. Repeating this does no harm.

        Raises:
            LeaseEnded: the lease expired or was revoked before.
        """
        found = yield from self._delete(lease_id)
        if "state" in found:
            return Lease.from_wire(found)
        lease = yield from self.get_lease(lease_id)  # the answer has the leftovers only
        return replace(lease, leftovers=Leftovers.of(found))

    def release_only(self, lease_id: str) -> Flow[Leftovers | None]:
        """Release a lease by one request, and return the leftovers if the service reports them.

        Raises:
            LeaseEnded: the lease expired or was revoked before.
        """
        return Leftovers.of((yield from self._delete(lease_id)))

    def _delete(self, lease_id: str) -> Flow[json_fields.Members]:
        done = yield from exchange(ServiceCall("DELETE", path("/v1/leases/{}", lease_id)), self.policy)
        return {} if done.answer.status == HTTPStatus.NO_CONTENT else json_fields.members(decode(done.answer))

    def reset(self, lease_id: str) -> Flow[Lease]:
        """Reset a leased database in place. The lease stays the same, with a new login and so a new URL.

        The service closes connections of the old login. After an error the old login may not work any more. Then repeat the
        reset, which does no harm, or release the lease.

        Raises:
            LeaseEnded: the lease has ended.
            Conflict: the lease is kept, or another reset of it is running.
        """
        call = ServiceCall("POST", path("/v1/leases/{}/reset", lease_id), extra_seconds=_RESET_SECONDS)
        began_at = self.policy.clock()
        repeated = False
        while True:
            done = yield from exchange(call, self.policy)
            repeated = repeated or done.repeated
            error = None if done.answer.status == HTTPStatus.OK else problem(done.answer)
            pause = error.retry_after_seconds if isinstance(error, Conflict) else None
            elapsed = self.policy.clock() - began_at
            if pause is None or not repeated or elapsed + pause > self.policy.retry_seconds:
                return Lease.from_wire(json_fields.members(decode(done.answer)))
            yield Pause(pause)  # the service is still executing the attempt whose answer was lost

    def revoke(self, lease_id: str) -> Flow[Lease]:
        """End a lease, also one of another holder.

        Raises:
            Forbidden: the token lacks the scope for this.
            LeaseEnded: the lease has ended already.
        """
        found = yield from self._ask(ServiceCall("DELETE", path("/v1/leases/{}", lease_id) + "?force=true"))
        return Lease.from_wire(json_fields.members(found))

    def keep(
        self, lease_id: str, *, ttl_seconds: float = DEFAULT_KEEP_SECONDS, reason: str | None = None
    ) -> Flow[Lease]:
        """Keep a leased database for inspection, for `ttl_seconds` from now.

        Raises:
            LeaseEnded: the lease has ended.
        """
        body: dict[str, object] = {"ttl_seconds": ttl_seconds} | (
            {} if reason is None else {"reason": reason}
        )
        found = yield from self._ask(ServiceCall("POST", path("/v1/leases/{}/keep", lease_id), encode(body)))
        return Lease.from_wire(json_fields.members(found))

    def get_lease(self, lease_id: str) -> Flow[Lease]:
        """Look a lease up.

        Raises:
            LeaseNotFound: no lease has this id.
        """
        found = yield from self._ask(ServiceCall("GET", path("/v1/leases/{}", lease_id)))
        return Lease.from_wire(json_fields.members(found))

    def leases(
        self,
        *,
        state: str | None = None,
        template: str | None = None,
        isolation: Isolation | None = None,
        holder: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        limit: int | None = None,
    ) -> Flow[list[Lease]]:
        """List all leases, or the first `limit`. Only those that have all values of `holder` and `labels`."""
        pairs: list[tuple[str, str | None]] = [
            ("state", state),
            ("template", template),
            ("isolation", isolation),
        ]
        pairs += [(f"holder.{key}", value) for key, value in (holder or {}).items()]
        pairs += [(f"label.{key}", value) for key, value in (labels or {}).items()]
        return (yield from self._list("/v1/leases", pairs, limit, Lease.from_wire))

    def _queue(self, slice_of: Callable[[float], ServiceCall], wait_seconds: float) -> Flow[TimedAnswer]:
        """Send requests until the wait has passed. Any answer except ``pool_exhausted`` ends it."""
        clock = self.policy.clock
        began_at = asked_at = clock()
        left = wait_seconds  # a short wait is sent unchanged, so that the service refuses an invalid one
        while True:
            seconds = min(left, self.poll_seconds)
            done = yield from exchange(slice_of(seconds), self.policy, quota_wait_seconds=left)
            error = None if done.answer.status == HTTPStatus.CREATED else problem(done.answer)
            last = seconds == left
            early = seconds - (clock() - asked_at)
            if not isinstance(error, PoolExhausted) or (last and early <= _SHORTEST_PAUSE_SECONDS):
                return done
            if early > _SHORTEST_PAUSE_SECONDS:  # refused without a wait: do not poll in a busy loop
                yield Pause(min(early, error.retry_after_seconds or _SHORTEST_PAUSE_SECONDS))
            asked_at = clock()
            left = max(0.0, began_at + wait_seconds - asked_at)
