from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freshdb_service.observability.histogram import BOUNDS, BUCKETS, bucket_of, percentile


def counted(*seconds: float) -> list[int]:
    counts = [0] * BUCKETS
    for one in seconds:
        counts[bucket_of(one)] += 1
    return counts


def test_empty_histogram_has_no_percentile() -> None:
    assert percentile([0] * BUCKETS, 50) is None
    assert percentile([], 50) is None


@given(st.lists(st.floats(0, 300), min_size=1, max_size=200), st.sampled_from([50.0, 95.0, 99.0, 100.0]))
def test_error_of_a_percentile_is_at_most_its_bucket_width(seconds: list[float], percent: float) -> None:
    ordered = sorted(seconds)
    rank = max(0, -(-len(ordered) * percent // 100) - 1)
    bucket = bucket_of(ordered[int(rank)])
    low = BOUNDS[bucket - 1] if bucket else 0.0
    found = percentile(counted(*seconds), percent)
    assert found is not None
    assert low <= found <= BOUNDS[bucket]


def test_duration_above_all_bounds_counts_as_the_last_bound() -> None:
    assert percentile(counted(10_000), 50) == BOUNDS[-1]


@pytest.mark.parametrize("bound", BOUNDS)
def test_bound_belongs_to_its_bucket(bound: float) -> None:
    assert bucket_of(bound) == BOUNDS.index(bound)
