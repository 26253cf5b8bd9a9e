"""Target sizes of pools: they rise with waiters, and fall again without."""

from __future__ import annotations

from uuid import UUID, uuid4

from freshdb_service.maintenance.pool_sizing import HALF_LIFE_SECONDS, PoolSizing

POOL = uuid4()


def target(pool_sizing: PoolSizing, waiting: int, now: float, pool: UUID = POOL) -> int:
    return pool_sizing.target(pool, min_ready=2, max_size=20, waiting=waiting, now=now)


def test_target_without_waiters_is_min_ready() -> None:
    pool_sizing = PoolSizing()
    assert [target(pool_sizing, 0, now) for now in (0, 1, 1000)] == [2, 2, 2]


def test_waiters_raise_target_at_once() -> None:
    pool_sizing = PoolSizing()
    assert target(pool_sizing, 8, 0) == 10
    assert target(pool_sizing, 0, 0) == 10


def test_rise_of_target_halves_in_each_half_life_down_to_min_ready() -> None:
    pool_sizing = PoolSizing()
    target(pool_sizing, 8, 0)
    halves = [target(pool_sizing, 0, n * HALF_LIFE_SECONDS) for n in range(7)]
    assert halves == [10, 6, 4, 3, 3, 2, 2]


def test_frequent_calls_do_not_lower_target_faster() -> None:
    often, seldom = PoolSizing(), PoolSizing()
    target(often, 8, 0)
    target(seldom, 8, 0)
    for tenth in range(int(HALF_LIFE_SECONDS) * 10):
        target(often, 0, tenth / 10)
    assert target(often, 0, HALF_LIFE_SECONDS) == target(seldom, 0, HALF_LIFE_SECONDS) == 6


def test_smaller_peak_during_decline_raises_target_to_its_own_height() -> None:
    pool_sizing = PoolSizing()
    target(pool_sizing, 8, 0)
    assert target(pool_sizing, 6, HALF_LIFE_SECONDS) == 8
    assert target(pool_sizing, 0, HALF_LIFE_SECONDS * 1.01) == 8


def test_target_never_exceeds_max_size() -> None:
    assert target(PoolSizing(), 500, 0) == 20


def test_pools_are_independent_and_can_be_forgotten() -> None:
    pool_sizing, other = PoolSizing(), uuid4()
    target(pool_sizing, 8, 0)
    assert target(pool_sizing, 0, 0, other) == 2
    pool_sizing.forget({other})
    assert target(pool_sizing, 0, 0) == 2
