"""How many databases a pool keeps ready: ``min_ready``, and more for as long as callers had to wait.

A caller who waits shows that too few were ready for the bursts in which this pool is asked. So the target rises at once by
as many as wait, and falls again by half in every ``HALF_LIFE_SECONDS`` in which nobody waits. A pool that resets fast enough
for its demand never rises; one that is asked by forty workers in the same moment has forty ready for the next time.
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
    """What every pool keeps ready beyond ``min_ready``, as this replica has seen it."""

    def __init__(self) -> None:
        self._peaks: dict[UUID, _Peak] = {}

    def target(self, pool_id: UUID, *, min_ready: int, max_size: int, waiting: int, now: float) -> int:
        """How many databases should be ready.

        Args:
            pool_id: of which pool.
            min_ready: the least.
            max_size: the most.
            waiting: how many databases are waited for at this moment.
            now: in seconds, by a clock that never goes back.
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
        """Forget every pool but these."""
        for pool_id in set(self._peaks) - known:
            del self._peaks[pool_id]
