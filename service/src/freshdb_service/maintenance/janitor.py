"""Resets dirty databases: claims them, longest waiting first, and has the reset engine make them clean."""

from __future__ import annotations

import asyncio

from freshdb_service.databases import Databases
from freshdb_service.installation import Installation
from freshdb_service.maintenance.rounds import Crew
from freshdb_service.store import resetting


class Janitor:
    """One round: reset until nothing is dirty, a bounded number at once."""

    def __init__(self, at: Installation, databases: Databases, *, wake: asyncio.Event | None = None) -> None:
        self._at = at
        self._databases = databases
        self._wake = wake

    async def run_once(self) -> None:
        """Reset every dirty database on the servers of this replica."""
        settings = self._at.settings
        crew = Crew(settings.provision_concurrency * len(self._at.servers), self._at.stopping)
        while True:
            if crew.free:
                claimed = await resetting.claim_dirty(
                    self._at.store,
                    list(self._at.servers),
                    crew.free,
                    claim_seconds=settings.claim_seconds,
                )
                for used in claimed:
                    crew.take(self._databases.reset(used))
            if not await crew.a_hand_free(self._wake):
                return
