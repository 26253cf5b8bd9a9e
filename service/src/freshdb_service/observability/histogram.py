"""Histograms of durations: counts per bucket, which can be added up.

There is a bucket up to each of ``BOUNDS`` (seconds, inclusive), and one for longer durations. A percentile is interpolated
linearly within its bucket, so its error is at most the width of the bucket. The module is pure and uses the standard library
only.
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
    """Return the index of the bucket of a duration."""
    return bisect_left(BOUNDS, seconds)


def percentile(counts: Sequence[int], percent: float) -> float | None:
    """Return a percentile in seconds, or ``None`` if all counts are 0.

    Durations above the last bound count as that bound.

    Args:
        counts: one count per bucket.
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
