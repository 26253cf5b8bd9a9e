"""Check a history against the guarantees of freshdb, from the outside.

A lease is *certainly held* from the answer to its acquire until its holder begins to release it, or until the last
acknowledged end. Within that time, the lease must behave as if its holder were the only one. Outside of that time, the
checker can say almost nothing.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.limits import TIMEOUT_FACTOR
from tests.soak.history import Fault, History, Kind, Op

ENDED_CODES = {"lease_ended", "lease_not_found"}
HISTORY_SECONDS = 5.0 * TIMEOUT_FACTOR
"""Time for which the service still knows a lease that has ended."""
DEAD_SECONDS = 15.0 * TIMEOUT_FACTOR
"""Time after which the URL of an ended lease reaches nothing, whichever processes have died in the meantime."""
QUEUE_SECONDS = 1.0
"""Difference of two arrivals, or of two answers, from which on their order counts for the queue."""


@dataclass(slots=True)
class Lease:
    """One lease, as its holder knows it."""

    id: str
    granted: Op
    ops: list[Op] = field(default_factory=list)

    @property
    def held_until(self) -> float:
        """The end of the time in which the lease was certainly held."""
        return min([self.acknowledged_until, *(op.began for op in self.ops if op.kind is Kind.RELEASE)])

    @property
    def acknowledged_until(self) -> float:
        """The end that the service acknowledged last."""
        return max(op.until for op in (self.granted, *self.ops))

    @property
    def released_at(self) -> float | None:
        """The time of the first answer to a successful release."""
        return min((op.ended for op in self.ops if op.kind is Kind.RELEASE and op.ok), default=None)


def violations(history: History) -> list[str]:
    """Return all violations in a history."""
    leases = leases_of(history)
    return [
        *_double_leases(leases),
        *(line for lease in leases for line in _wrong_contents(lease, history.faults)),
        *(line for lease in leases for line in _early_ends(lease)),
        *(line for lease in leases for line in _late_ends(lease, history.faults)),
        *_overtaken(history),
    ]


def leases_of(history: History) -> list[Lease]:
    """Return every lease whose holder received the grant."""
    found: dict[str, Lease] = {}
    for op in history.ops:
        if op.kind is Kind.ACQUIRE and op.ok:
            found[op.lease] = Lease(op.lease, op)
    for op in history.ops:
        if op.kind is not Kind.ACQUIRE and op.lease in found:
            found[op.lease].ops.append(op)
    for lease in found.values():
        lease.ops.sort(key=lambda op: op.began)
    return list(found.values())


def _double_leases(leases: list[Lease]) -> Iterator[str]:
    """Check mutual exclusion."""
    by_database: dict[str, list[Lease]] = defaultdict(list)
    for lease in leases:
        by_database[lease.granted.database].append(lease)
    for database, holders in by_database.items():
        holders.sort(key=lambda lease: lease.granted.ended)
        latest = None
        for lease in holders:
            if latest is not None and lease.granted.ended < latest.held_until:
                yield (
                    f"{database} was held by {latest.id} until {latest.held_until:.3f}, but granted to {lease.id} at "
                    f"{lease.granted.ended:.3f}"
                )
            if latest is None or lease.held_until > latest.held_until:
                latest = lease


def _wrong_contents(lease: Lease, faults: list[Fault]) -> Iterator[str]:
    """Check that the database was reachable, clean at first, and then changed by its holder only."""
    expected: tuple[str, ...] = ()
    for query in lease.ops:
        if query.kind is not Kind.QUERY or query.ended > lease.held_until:
            continue
        if query.ok:
            if query.seen != expected:
                yield f"{lease.id} found {list(query.seen)} in {lease.granted.database} instead of {list(expected)}"
            expected = (*query.seen, query.wrote)
        elif any(one.unreachable and one.began <= query.ended and query.began <= one.ended for one in faults):
            return  # its rows may be committed or not
        else:
            yield f"{lease.id} could not reach {lease.granted.database}, which it held: {query.outcome}"


def _early_ends(lease: Lease) -> Iterator[str]:
    """Check that an acknowledged lease lives until its acknowledged end."""
    for op in lease.ops:
        if op.kind is Kind.RENEW and op.outcome in ENDED_CODES and op.ended <= lease.held_until:
            yield f"{lease.id} had ended at {op.ended:.3f}, but was acknowledged until {lease.held_until:.3f}"
    released = [op for op in lease.ops if op.kind is Kind.RELEASE]
    # A client whose answer was lost sends the release again. If that takes long, the service no longer knows the lease.
    pruned = released and released[0].ended - released[0].began > HISTORY_SECONDS
    if (
        released
        and not pruned
        and released[0].outcome in ENDED_CODES
        and released[0].ended <= lease.acknowledged_until
    ):
        yield (
            f"{lease.id} had ended before its release at {released[0].ended:.3f}, but was acknowledged until "
            f"{lease.acknowledged_until:.3f}"
        )


def _late_ends(lease: Lease, faults: list[Fault]) -> Iterator[str]:
    """Check that the URL of a released or expired lease reaches nothing, so that no lease ends late.

    The exception is a Redis that lost its data. The lease then got a full TTL again, from a time that is not known.
    """
    ended_at = lease.released_at
    reason = "released"
    if ended_at is None and not any(op.kind is Kind.RELEASE for op in lease.ops):
        ended_at, reason = lease.acknowledged_until, "expired"
    for op in lease.ops:
        if (
            op.kind is not Kind.RECONNECT
            or not op.ok
            or ended_at is None
            or op.began <= ended_at + DEAD_SECONDS
        ):
            continue
        if reason == "expired" and any(
            one.loses_data and one.began <= op.ended and lease.granted.began <= one.ended for one in faults
        ):
            continue
        yield f"the URL of {lease.id}, {reason} at {ended_at:.3f}, was accepted at {op.began:.3f}"


def _overtaken(history: History) -> Iterator[str]:
    """Check that the queue is first come, first served, except where a fault removed a client from it."""
    by_pool: dict[str, list[Op]] = defaultdict(list)
    for op in history.ops:
        if op.kind is Kind.ACQUIRE and op.ok:
            by_pool[op.pool].append(op)
    for ops in by_pool.values():
        ops.sort(key=lambda op: op.began)
        began = [op.began for op in ops]
        first_served: list[Op] = list(ops)  # the earliest answer among this op and all later ones
        for i in range(len(ops) - 2, -1, -1):
            first_served[i] = min(ops[i], first_served[i + 1], key=lambda op: op.ended)
        for op in ops:
            later = bisect_right(began, op.began + QUEUE_SECONDS)
            if later == len(ops) or first_served[later].ended >= op.ended - QUEUE_SECONDS:
                continue
            if not any(one.began <= op.ended and op.began <= one.ended for one in history.faults):
                other = first_served[later]
                yield (
                    f"{op.lease} waited from {op.began:.3f} to {op.ended:.3f}; {other.lease}, requested at "
                    f"{other.began:.3f}, was served at {other.ended:.3f}"
                )
