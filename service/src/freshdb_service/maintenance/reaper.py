"""Ends leases whose deadline has passed, and gives leases their deadlines back when Redis has lost them.

The reaper takes due leases out of the deadlines first, so that no heartbeat can revive what is being ended, then ends each
in the control plane, then settles it in Redis. One that dies in between leaves the lease in ``expiring``, where the next
reaper finds it. When Redis has started anew since the deadlines were written, nothing expires: every live lease gets its
full TTL again first.
"""

from __future__ import annotations

import logging

from freshdb_service.installation import Installation
from freshdb_service.leases import Leases
from freshdb_service.redis.deadlines import Deadline
from freshdb_service.store import leases as store_leases

_log = logging.getLogger(__name__)


class Reaper:
    """One round: end everything that is due."""

    def __init__(self, at: Installation, leases: Leases) -> None:
        self._at = at
        self._leases = leases

    async def run_once(self) -> None:
        """End the leases that are due now."""
        due = await self._at.deadlines.due()
        if due.forgotten_in_run is not None:
            async with self._at.store.statement() as connection:
                live = await store_leases.live(connection)
            entries = [
                Deadline(one.id, one.principal, one.ttl_seconds, one.remaining_seconds) for one in live
            ]
            await self._at.deadlines.restore(entries, run_id=due.forgotten_in_run)
            if entries:
                _log.warning("Redis has started anew: %d leases got their full TTL again", len(entries))
            return
        for lease_id in due.lease_ids:
            await self._leases.expire(lease_id)
