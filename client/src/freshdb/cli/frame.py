"""One frame of ``status --watch``: the health, pools and leases of the service at one moment."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from freshdb.errors import FreshdbError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from freshdb.client import Client
    from freshdb.models import Lease, Pool

_MOST_LEASES: Final = 1000


@dataclass(frozen=True, slots=True)
class Frame:
    """Health, pools and leases of a service at one moment."""

    at: datetime
    url: str
    status: str
    version: str | None = None
    checks: Mapping[str, object] = field(default_factory=dict)
    pools: tuple[Pool, ...] = ()
    leases: tuple[Lease, ...] = ()
    problem: str | None = None


def next_frame(client: Client, before: Frame) -> Frame:
    """Ask the service for the next frame. If it does not answer: the frame before, with the reason."""
    now = datetime.now(UTC)
    try:
        health = client.health()
        return replace(
            before,
            at=now,
            status=health.status,
            version=health.version,
            checks=health.checks,
            pools=tuple(client.pools()),
            leases=tuple(client.leases(limit=_MOST_LEASES)),
            problem=None,
        )
    except FreshdbError as error:
        return replace(before, at=now, status="unreachable", checks={}, problem=str(error))
