"""The requests of one call to acquire, its places in the queues, and the hash that identifies it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from freshdb_service.lifecycle import Isolation
from freshdb_service.store.grant import GrantShare, GrantTerms


@dataclass(frozen=True, slots=True)
class AcquireRequest:
    """The request for one lease. Its values are within the limits of the settings."""

    template: str
    """``name`` for the newest that is ready, or ``name@fingerprint``."""
    isolation: Isolation
    ttl_seconds: float
    holder: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def pinned(self) -> bool:
        """True if the request names the fingerprint."""
        return "@" in self.template


@dataclass(slots=True)
class AcquireCall:
    """One call to acquire: all its leases or none.

    Attributes:
        terms: principal, token, idempotency key: the same for all its leases.
        wanted: one request for each share.
        shares: equal leases from one pool each.
        tickets: places in the queues of the pools.
        waiting: length of a pool's queue when the call came.
        granted: the control plane granted the leases of the shares.
    """

    terms: GrantTerms
    wanted: list[AcquireRequest] = field(default_factory=list)
    shares: list[GrantShare] = field(default_factory=list)
    tickets: dict[UUID, int] = field(default_factory=dict)
    waiting: int = 0
    granted: bool = False

    @property
    def lease_ids(self) -> list[UUID]:
        """Ids of the leases to grant."""
        return [one for share in self.shares for one in share.lease_ids]

    @property
    def pools(self) -> list[UUID]:
        """The pools, always in the same order, so that two calls never wait for each other."""
        return sorted({share.pool_id for share in self.shares})

    @property
    def owner(self) -> str | None:
        """Owner of the call's places in the queues, over several calls with the same idempotency key."""
        if self.terms.idempotency_key is None:
            return None
        text = f"{self.terms.principal}\n{self.terms.idempotency_key}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def wanted_of(self, pool_id: UUID) -> int:
        """Number of databases that the call requests from a pool."""
        return sum(len(share.lease_ids) for share in self.shares if share.pool_id == pool_id)

    def ticket(self, pool_id: UUID) -> int:
        """The place in a pool's queue: the instant of the first try."""
        return self.tickets.get(pool_id, min(self.tickets.values()))


def hash_of(wanted: Sequence[AcquireRequest]) -> str:
    """Hash that is equal for equal requests. ``wait_seconds`` is not part of it."""
    body = [
        [one.template, one.isolation, one.ttl_seconds, dict(one.holder), dict(one.labels)] for one in wanted
    ]
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
