"""What one call asks for: its shares, its places in the queues, and what makes two calls the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from freshdb_service.lifecycle import Isolation
from freshdb_service.store.grant import GrantShare


@dataclass(frozen=True, slots=True)
class AcquireRequest:
    """What a caller asks for; everything is within the limits of the settings."""

    template: str
    """``name`` for the newest that is ready, or ``name@fingerprint``."""
    isolation: Isolation
    ttl_seconds: float
    holder: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def pinned(self) -> bool:
        """Whether the fingerprint was named."""
        return "@" in self.template


@dataclass(slots=True)
class PoolRequest:
    """Everything one call asks for, and its place in the queues."""

    wanted: list[AcquireRequest]
    shares: list[GrantShare]
    tickets: dict[UUID, int] = field(default_factory=dict)
    waiting: int = 0
    """How many stood in the queue of a pool when this call came."""

    @property
    def lease_ids(self) -> list[UUID]:
        """The leases that there will be."""
        return [one for share in self.shares for one in share.lease_ids]

    @property
    def pools(self) -> list[UUID]:
        """In an order that is the same for everybody: nobody waits for somebody who waits for them."""
        return sorted({share.pool_id for share in self.shares})

    def wanted_of(self, pool_id: UUID) -> int:
        """How many databases are wanted of a pool."""
        return sum(len(share.lease_ids) for share in self.shares if share.pool_id == pool_id)

    def ticket(self, pool_id: UUID) -> int:
        """The place in a pool's queue: the instant at which it was first asked."""
        return self.tickets.get(pool_id, min(self.tickets.values()))


def owner_of(principal: str, idempotency_key: str) -> str:
    """Whose place in a queue it is, over several requests."""
    return hashlib.sha256(f"{principal}\n{idempotency_key}".encode()).hexdigest()[:32]


def hash_of(wanted: Sequence[AcquireRequest]) -> str:
    """What makes two requests the same; how long the caller would wait does not."""
    body = [
        [one.template, one.isolation, one.ttl_seconds, dict(one.holder), dict(one.labels)] for one in wanted
    ]
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
