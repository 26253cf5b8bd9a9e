"""Operations on leases, as flows.

Waiting is long polling in slices of `poll_seconds`, shorter than the timeout of a usual proxy. An acquire keeps its
``Idempotency-Key`` over its slices and repetitions: however often it was sent, it leases one database.
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
"""How long the service may take to make a database clean: it may have to be made anew."""


@dataclass(frozen=True, slots=True)
class Granted:
    """A lease, how long it lasts since when, and whether that may be out of date (an older call may have got it)."""

    lease: Lease
    ttl_seconds: float
    counted_from: float
    repeated: bool


class LeaseOperations(OperationsBase):
    """All that can be done with leases."""

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
        """Lease a clean database, without a heartbeat: renew and release it yourself.

        Args:
            template: ``name`` (the newest that is ready) or ``name@fingerprint``.
            isolation: a database of its own, or a schema of its own.
            ttl_seconds: how long the lease lasts without renewal.
            wait_seconds: how long to wait in the queue; any length.
            holder: who has it, for people who look at the list.
            labels: anything else to find it by.
            idempotency_key: the same key gives the same lease; by default a new one.

        Raises:
            PoolExhausted: nothing came free within the wait.
            TemplateNotFound: there is no such template.
            TemplateBuilding: it is not ready yet.
            IsolationUnsupported: the template cannot be leased this way; says why.
        """
        request = LeaseRequest(template, isolation, ttl_seconds, wait_seconds, holder or {}, labels or {})
        granted = yield from self.grant(request, idempotency_key)
        return granted.lease

    def grant(self, request: LeaseRequest, idempotency_key: str | None = None) -> Flow[Granted]:
        """Acquire, and tell since when the lease's time is counted."""
        key = idempotency_key or str(uuid.uuid4())

        def slice_of(wait_seconds: float) -> ServiceCall:
            content = encode(request.to_wire(wait_seconds=wait_seconds))
            return ServiceCall(
                "POST", "/v1/leases", content, {"Idempotency-Key": key}, patience_seconds=wait_seconds
            )

        done = yield from self._queue(slice_of, request.wait_seconds)
        lease = Lease.from_wire(json_fields.members(decode(done.answer)))
        return Granted(
            lease, lease.ttl_seconds, done.counted_from, done.repeated or idempotency_key is not None
        )

    def take_up(self, lease: Lease) -> Flow[Granted]:
        """Renew a lease that was acquired before, and tell since when its time is counted."""
        done = yield from exchange(self.renewal(lease.id), self.policy)
        renewal = Renewal.from_wire(json_fields.members(decode(done.answer)))
        return Granted(lease, renewal.ttl_seconds, done.counted_from, repeated=False)

    def acquire_batch(
        self, requests: Sequence[LeaseRequest], *, idempotency_key: str | None = None
    ) -> Flow[list[Lease]]:
        """Lease several databases at once, all or none; waits for as long as the most patient of them.

        Raises:
            PoolExhausted: they did not all come free within the wait.
        """
        key = idempotency_key or str(uuid.uuid4())
        wait_seconds = max((one.wait_seconds for one in requests), default=0.0)

        def slice_of(wait_seconds: float) -> ServiceCall:
            bodies = [one.to_wire(wait_seconds=min(one.wait_seconds, wait_seconds)) for one in requests]
            content = encode({"leases": bodies})
            return ServiceCall(
                "POST", "/v1/leases/batch", content, {"Idempotency-Key": key}, patience_seconds=wait_seconds
            )

        done = yield from self._queue(slice_of, wait_seconds)
        found, _ = json_fields.items(decode(done.answer))
        return [Lease.from_wire(one) for one in found]

    def renew(self, lease_id: str, *, ttl_seconds: float | None = None) -> Flow[Renewal]:
        """Extend a lease from now; the answer says by how much, which may be less than was asked for.

        Raises:
            LeaseEnded: it is over.
        """
        found = yield from self._ask(self.renewal(lease_id, ttl_seconds=ttl_seconds))
        return Renewal.from_wire(json_fields.members(found))

    def renewal(self, lease_id: str, *, ttl_seconds: float | None = None) -> ServiceCall:
        """Make the call that renews a lease."""
        body = {} if ttl_seconds is None else {"ttl_seconds": ttl_seconds}
        return ServiceCall("POST", path("/v1/leases/{}/renew", lease_id), encode(body))

    def release(self, lease_id: str) -> Flow[Lease]:
        """Give a database back; again is fine.

        Raises:
            LeaseEnded: it had expired or was revoked before.
        """
        found = yield from self._give_back(lease_id)
        if "state" in found:
            return Lease.from_wire(found)
        lease = yield from self.get_lease(lease_id)  # an answer that says no more than what was left behind
        return replace(lease, leftovers=Leftovers.of(found))

    def give_back(self, lease_id: str) -> Flow[Leftovers | None]:
        """Release, and ask no more than what was left behind, as far as the service says.

        Raises:
            LeaseEnded: it had expired or was revoked before.
        """
        return Leftovers.of((yield from self._give_back(lease_id)))

    def _give_back(self, lease_id: str) -> Flow[json_fields.Members]:
        done = yield from exchange(ServiceCall("DELETE", path("/v1/leases/{}", lease_id)), self.policy)
        return {} if done.answer.status == HTTPStatus.NO_CONTENT else json_fields.members(decode(done.answer))

    def reset(self, lease_id: str) -> Flow[Lease]:
        """Have a leased database made clean again, in place: the same lease, with a new login and so a new URL.

        The old login's connections are ended. When it fails, the old login may be out all the same: ask again, which
        does no harm, or release.

        Raises:
            LeaseEnded: it is over.
            Conflict: it is kept for a look, or being reset at this moment.
        """
        call = ServiceCall("POST", path("/v1/leases/{}/reset", lease_id), patience_seconds=_RESET_SECONDS)
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
            yield Pause(pause)  # the attempt whose answer was lost is still being carried out

    def revoke(self, lease_id: str) -> Flow[Lease]:
        """End anybody's lease.

        Raises:
            Forbidden: the token may not.
            LeaseEnded: it is over already.
        """
        found = yield from self._ask(ServiceCall("DELETE", path("/v1/leases/{}", lease_id) + "?force=true"))
        return Lease.from_wire(json_fields.members(found))

    def keep(
        self, lease_id: str, *, ttl_seconds: float = DEFAULT_KEEP_SECONDS, reason: str | None = None
    ) -> Flow[Lease]:
        """Hold a database back for a look, for `ttl_seconds` from now.

        Raises:
            LeaseEnded: the lease is over.
        """
        body: dict[str, object] = {"ttl_seconds": ttl_seconds} | (
            {} if reason is None else {"reason": reason}
        )
        found = yield from self._ask(ServiceCall("POST", path("/v1/leases/{}/keep", lease_id), encode(body)))
        return Lease.from_wire(json_fields.members(found))

    def get_lease(self, lease_id: str) -> Flow[Lease]:
        """Look one lease up.

        Raises:
            LeaseNotFound: there is none with this id.
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
        """List leases, those of all pages or the first `limit`; `holder` and `labels` must match as far as given."""
        pairs: list[tuple[str, str | None]] = [
            ("state", state),
            ("template", template),
            ("isolation", isolation),
        ]
        pairs += [(f"holder.{key}", value) for key, value in (holder or {}).items()]
        pairs += [(f"label.{key}", value) for key, value in (labels or {}).items()]
        return (yield from self._list("/v1/leases", pairs, limit, Lease.from_wire))

    def _queue(self, slice_of: Callable[[float], ServiceCall], wait_seconds: float) -> Flow[TimedAnswer]:
        """Ask in slices until the wait is over; any answer but ``pool_exhausted`` ends it."""
        clock = self.policy.clock
        began_at = asked_at = clock()
        left = wait_seconds  # sent as it is, if it is short: a wait that makes no sense is the service's to refuse
        while True:
            seconds = min(left, self.poll_seconds)
            done = yield from exchange(slice_of(seconds), self.policy, quota_wait_seconds=left)
            error = None if done.answer.status == HTTPStatus.CREATED else problem(done.answer)
            last = seconds == left
            early = seconds - (clock() - asked_at)
            if not isinstance(error, PoolExhausted) or (last and early <= _SHORTEST_PAUSE_SECONDS):
                return done
            if early > _SHORTEST_PAUSE_SECONDS:  # refused without waiting: do not ask in a busy loop
                yield Pause(min(early, error.retry_after_seconds or _SHORTEST_PAUSE_SECONDS))
            asked_at = clock()
            left = max(0.0, began_at + wait_seconds - asked_at)
