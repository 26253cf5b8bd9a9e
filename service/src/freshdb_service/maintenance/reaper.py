"""Ends leases whose deadline has passed, and restores deadlines that Redis has lost.

The reaper moves due leases from ``deadlines`` to ``expiring`` in Redis first, so that no heartbeat can renew a lease that is
about to end. Then it ends each lease in the control plane, and last removes it from Redis. If the reaper dies in between,
the lease stays in ``expiring``, and the next reaper takes it from there after a few seconds. If Redis has restarted empty,
no lease expires: every live lease gets its full TTL again first.

A round ends several leases at the same time, so that one that waits (for a lock, say) does not delay the others. A lease
that cannot be ended is put off alone. It stays in ``expiring`` for a few seconds if it has an error of its own, and is left
to the next round if a backend did not answer. After ``_AT_ONCE`` such failures the round ends, because the backend is down.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Final
from uuid import UUID

from freshdb_service.errors import BackendUnavailable
from freshdb_service.leasing.leases import Leases
from freshdb_service.resources import Resources

_AT_ONCE: Final = 8
_log = logging.getLogger(__name__)


class Reaper:
    """One round: end everything that is due."""

    def __init__(self, resources: Resources, leases: Leases) -> None:
        self._resources = resources
        self._leases = leases

    async def run_once(self) -> None:
        """End the leases that are due now."""
        due = await self._resources.deadlines.due()
        if due.forgotten_in_run is not None:
            await self._leases.restore_deadlines()
            return
        remaining, failures = iter(due.lease_ids), dict[UUID, Exception]()
        await asyncio.gather(*(self._end(remaining, failures) for _ in due.lease_ids[:_AT_ONCE]))
        if failures:
            unavailable = [one for one, error in failures.items() if isinstance(error, BackendUnavailable)]
            await self._resources.deadlines.hand_on([*unavailable, *remaining])
            raise next(iter(failures.values()))

    async def _end(self, remaining: Iterator[UUID], failures: dict[UUID, Exception]) -> None:
        while sum(isinstance(one, BackendUnavailable) for one in failures.values()) < _AT_ONCE:
            if (lease_id := next(remaining, None)) is None:
                return
            try:
                await self._leases.expire(lease_id)
            except Exception as error:  # noqa: BLE001 - whatever it is, the other leases end
                _log.warning("cannot end lease %s: %s", lease_id, error)
                failures[lease_id] = error
