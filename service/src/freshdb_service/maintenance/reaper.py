"""Ends leases whose deadline has passed, and gives leases their deadlines back when Redis has lost them.

The reaper takes due leases out of the deadlines first, so that no heartbeat can revive what is being ended, then ends each
in the control plane, then settles it in Redis. One that dies in between leaves the lease in ``expiring``, where the next
reaper finds it after a while; what cannot be ended because something is away is handed on to the next round. When Redis has
started anew since the deadlines were written, nothing expires: every live lease gets its full TTL again first.
"""

from __future__ import annotations

from freshdb_service.errors import BackendUnavailable
from freshdb_service.leasing.leases import Leases
from freshdb_service.resources import Resources


class Reaper:
    """One round: end everything that is due."""

    def __init__(self, resources: Resources, leases: Leases) -> None:
        self._resources = resources
        self._leases = leases

    async def run_once(self) -> None:
        """End the leases that are due now."""
        due = await self._resources.deadlines.due()
        if due.forgotten_in_run is not None:
            await self._leases.remind()
            return
        for ended, lease_id in enumerate(due.lease_ids):
            try:
                await self._leases.expire(lease_id)
            except Exception as error:
                # What cannot be ended for a reason of its own comes again later, and holds nobody else up.
                done = ended if isinstance(error, BackendUnavailable) else ended + 1
                await self._resources.deadlines.hand_on(due.lease_ids[done:])
                raise
