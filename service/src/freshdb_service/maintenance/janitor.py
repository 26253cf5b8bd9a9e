"""Resets dirty databases: claims them, the last to become dirty first, and has the reset engine make them clean.

Most databases are never dirty: the replica that ends a lease begins with the reset at once, if it has a hand free
(``databases``). What is left are those of a moment when it had none, and those of replicas that died.
"""

from __future__ import annotations

import asyncio
from time import monotonic

from freshdb_service.pooling.reset_jobs import ResetJobs
from freshdb_service.resources import Resources
from freshdb_service.store import reset_claims


class Janitor:
    """One round: reset until nothing is dirty, a bounded number at once."""

    def __init__(
        self, resources: Resources, databases: ResetJobs, *, wake: asyncio.Event | None = None
    ) -> None:
        self._resources = resources
        self._databases = databases
        self._wake = wake

    async def run_once(self) -> None:
        """Reset every dirty database on the servers of this replica; return when no reset is under way."""
        workers = self._databases.resets
        look_at = 0.0
        while True:
            woken = self._wake is not None and self._wake.is_set()
            if (woken or monotonic() >= look_at) and (free := workers.free):
                if self._wake is not None:
                    self._wake.clear()
                claimed = await reset_claims.claim_dirty(
                    self._resources.store,
                    list(self._resources.servers),
                    free,
                    claim_seconds=self._resources.settings.claim_seconds,
                )
                more = len(claimed) == free
                look_at = 0.0 if more else monotonic() + self._resources.settings.janitor_seconds
                for used in claimed:
                    workers.take(self._databases.reset(used))
            if not await workers.a_hand_free(self._wake):
                return
