"""How durations are kept: not one by one, but as counts of how many were how long. Such counts can be added up.

There is a bucket up to each of ``BOUNDS`` (seconds, inclusive), and one for what is longer than all of them. A percentile
is read off within its bucket as if what is in there were spread evenly: it is off by no more than the bucket is wide. The
module is pure: the standard library alone.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

BOUNDS: Final = (
    *(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    *(1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0),
)
BUCKETS: Final = len(BOUNDS) + 1


def bucket_of(seconds: float) -> int:
    """Which bucket a duration is counted in, from 0."""
    return bisect_left(BOUNDS, seconds)


def percentile(counts: Sequence[int], percent: float) -> float | None:
    """The duration (seconds) that so many percent of what was counted did not pass; ``None`` where nothing was.

    What is longer than the last bound counts as long as that.

    Args:
        counts: one for each bucket.
        percent: more than 0, at most 100.
    """
    left = sum(counts) * percent / 100
    if left <= 0:
        return None
    for bucket, count in enumerate(counts):
        if 0 < left <= count and bucket < len(BOUNDS):
            low = BOUNDS[bucket - 1] if bucket else 0.0
            return low + (BOUNDS[bucket] - low) * left / count
        left -= count
    return BOUNDS[-1]
