"""Resets dirty databases: claims them, newest first, and resets each in a worker slot.

Most databases never become dirty, because the replica that ends a lease resets its database at once if it has a free worker
slot (:mod:`~freshdb_service.pooling.reset_jobs`). The janitor resets the databases of moments without a free slot, and of
replicas that died.
"""

from __future__ import annotations

import asyncio
from time import monotonic

from freshdb_service.pooling.reset_jobs import ResetJobs
from freshdb_service.resources import Resources
from freshdb_service.store import reset_claims


class Janitor:
    """One round: reset dirty databases until there are none, in the worker slots of this replica."""

    def __init__(
        self, resources: Resources, reset_jobs: ResetJobs, *, wake: asyncio.Event | None = None
    ) -> None:
        self._resources = resources
        self._reset_jobs = reset_jobs
        self._wake = wake

    async def run_once(self) -> None:
        """Reset all dirty databases on the servers of this replica. Return when no reset is running."""
        workers = self._reset_jobs.resets
        next_claim_at = 0.0
        while True:
            woken = self._wake is not None and self._wake.is_set()
            if (woken or monotonic() >= next_claim_at) and (free := workers.free):
                if self._wake is not None:
                    self._wake.clear()
                claimed = await reset_claims.claim_dirty(
                    self._resources.store,
                    list(self._resources.servers),
                    free,
                    claim_seconds=self._resources.settings.claim_seconds,
                )
                more = len(claimed) == free
                next_claim_at = 0.0 if more else monotonic() + self._resources.settings.janitor_seconds
                for used in claimed:
                    workers.submit(self._reset_jobs.reset(used))
            if not await workers.slot_freed(self._wake):
                return
