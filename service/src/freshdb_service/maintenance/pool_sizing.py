"""Number of databases that a pool keeps ready: ``min_ready``, and more after callers had to wait.

A waiting caller shows that too few databases were ready for a burst of requests. The target rises at once by the number of
waiters. Without waiters, the rise halves in every ``HALF_LIFE_SECONDS``. The target of a pool whose resets keep up with
demand never rises. A pool that forty workers request at the same moment has forty databases ready for the next time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final
from uuid import UUID

HALF_LIFE_SECONDS: Final = 60.0
_NEGLIGIBLE: Final = 0.5


@dataclass(frozen=True, slots=True)
class _Peak:
    more: float
    at: float


class PoolSizing:
    """Databases that each pool keeps ready beyond ``min_ready``, by what this replica has seen."""

    def __init__(self) -> None:
        self._peaks: dict[UUID, _Peak] = {}

    def target(self, pool_id: UUID, *, min_ready: int, max_size: int, waiting: int, now: float) -> int:
        """Return the target number of ready databases.

        Args:
            pool_id: the pool.
            min_ready: minimum of the target.
            max_size: maximum of the target.
            waiting: number of databases that callers wait for now.
            now: monotonic time in seconds.
        """
        peak = self._peaks.get(pool_id)
        more = 0.0 if peak is None else peak.more * 0.5 ** ((now - peak.at) / HALF_LIFE_SECONDS)
        if waiting > more:
            more = float(waiting)
            self._peaks[pool_id] = _Peak(more, now)
        elif more < _NEGLIGIBLE:
            self._peaks.pop(pool_id, None)
        return min(min_ready + math.floor(more + _NEGLIGIBLE), max_size)

    def forget(self, known: set[UUID]) -> None:
        """Forget all other pools."""
        for pool_id in set(self._peaks) - known:
            del self._peaks[pool_id]
