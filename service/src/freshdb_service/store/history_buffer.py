"""Buffer of the history: numbers are collected in memory, written in the background, and read for the API.

Collecting costs a grant or a reset no I/O. Every ``history_flush_seconds``, and when the replica stops, two statements add
the numbers to those in the control plane. A replica that is killed loses the numbers of that interval. While the control
plane is unavailable, they stay in memory, up to ``MOST`` resets. The history is a report, and nothing is decided by it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from time import monotonic
from typing import Final
from uuid import UUID

from freshdb_service.errors import BackendUnavailable
from freshdb_service.lifecycle import DatabaseState
from freshdb_service.observability.histogram import BUCKETS, bucket_of
from freshdb_service.store import history as store_history
from freshdb_service.store.connection import Store
from freshdb_service.store.history import Minute, Point, Reset, ResetFilter, ResetRow

MOST: Final = 10_000
KEPT_SECONDS: Final = 25 * 3600.0
"""Retention of the minutes of pools: a day, and an hour more for queries of the whole day."""
POINTS: Final = 288
"""Approximate maximum number of points of a history: one per minute of an hour, one per five minutes of a day."""


@dataclass(slots=True)
class _Seen:
    """The numbers of a pool that were collected since the last flush."""

    databases: Mapping[str, int] | None = None
    waiting: int = 0
    waits: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    resets: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    paths: Counter[str] = field(default_factory=Counter)
    failures: int = 0

    def add(self, before: _Seen) -> None:
        """Add numbers that could not be written."""
        self.databases = self.databases or before.databases
        self.waiting = max(self.waiting, before.waiting)
        self.waits = [a + b for a, b in zip(self.waits, before.waits, strict=True)]
        self.resets = [a + b for a, b in zip(self.resets, before.resets, strict=True)]
        self.paths += before.paths
        self.failures += before.failures


class History:
    """The history of this installation, on one replica."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pools: dict[UUID, _Seen] = {}
        self._resets: deque[tuple[Reset, float]] = deque(maxlen=MOST)

    def saw(self, pool_id: UUID, databases: Mapping[DatabaseState, int], waiting: int) -> None:
        """Count a pool's databases by state, and its waiting callers."""
        seen = self._of(pool_id)
        seen.databases = {state.value: count for state, count in databases.items() if count}
        seen.waiting = max(seen.waiting, waiting)

    def granted(self, pool_id: UUID, waited_seconds: float) -> None:
        """Count a grant, with the duration since the request."""
        self._of(pool_id).waits[bucket_of(waited_seconds)] += 1

    def reset(self, done: Reset) -> None:
        """Count a finished reset."""
        seen = self._of(done.pool_id)
        seen.resets[bucket_of(done.seconds)] += 1
        seen.paths[done.path] += 1
        self._resets.append((done, monotonic()))

    def failed(self, pool_id: UUID) -> None:
        """Count a failed attempt to provision, reset or drop a database."""
        self._of(pool_id).failures += 1

    async def flush(self) -> None:
        """Write the collected numbers. If this fails, they stay in memory.

        Raises:
            BackendUnavailable: the control plane is unavailable.
        """
        pools, self._pools = self._pools, {}
        done, self._resets = self._resets, deque(maxlen=MOST)
        try:
            # In one transaction: numbers that stay in memory after a failure must not be written twice.
            async with self._store.transaction() as connection:
                await store_history.add_minutes(
                    connection, [_minute(pool_id, seen) for pool_id, seen in pools.items()]
                )
                now = monotonic()
                await store_history.add_resets(
                    connection, [replace(one, ago_seconds=now - at) for one, at in done]
                )
        except BackendUnavailable:
            for pool_id, seen in pools.items():
                self._of(pool_id).add(seen)
            self._resets = deque([*done, *self._resets], maxlen=MOST)
            raise

    async def points(self, pool_id: UUID, *, seconds: float) -> tuple[int, list[Point]]:
        """Return the history of a pool's last ``seconds``: the seconds per point, and the points, oldest first."""
        step = max(1, round(seconds / POINTS / 60)) * 60
        async with self._store.statement() as connection:
            return step, await store_history.points(connection, pool_id, seconds=seconds, step_seconds=step)

    async def resets(
        self, wanted: ResetFilter, *, limit: int, before: tuple[datetime, UUID] | None = None
    ) -> list[ResetRow]:
        """Return resets, the newest first."""
        async with self._store.statement() as connection:
            return await store_history.listing(connection, wanted, limit=limit, before=before)

    async def prune(self, resets_seconds: float) -> None:
        """Delete minutes older than ``KEPT_SECONDS`` and resets older than ``resets_seconds``, a limited number per call."""
        async with self._store.statement() as connection:
            await store_history.prune(connection, minutes_seconds=KEPT_SECONDS, resets_seconds=resets_seconds)

    def _of(self, pool_id: UUID) -> _Seen:
        seen = self._pools.get(pool_id)
        if seen is None:
            seen = self._pools[pool_id] = _Seen()
        return seen


def _minute(pool_id: UUID, seen: _Seen) -> Minute:
    return Minute(
        pool_id=pool_id,
        databases=seen.databases,
        waiting=seen.waiting,
        waits=seen.waits,
        resets=seen.resets,
        paths=dict(seen.paths),
        failures=seen.failures,
    )
