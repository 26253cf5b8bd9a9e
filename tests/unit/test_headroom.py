"""Pools size themselves: the target rises with those who wait, and falls again when nobody does."""

from __future__ import annotations

from uuid import UUID, uuid4

from freshdb_service.maintenance.pool_sizing import HALF_LIFE_SECONDS, PoolSizing

POOL = uuid4()


def target(pool_sizing: PoolSizing, waiting: int, now: float, pool: UUID = POOL) -> int:
    return pool_sizing.target(pool, min_ready=2, max_size=20, waiting=waiting, now=now)


def test_a_pool_that_nobody_waits_for_keeps_its_least() -> None:
    pool_sizing = PoolSizing()
    assert [target(pool_sizing, 0, now) for now in (0, 1, 1000)] == [2, 2, 2]


def test_those_who_wait_raise_the_target_at_once() -> None:
    pool_sizing = PoolSizing()
    assert target(pool_sizing, 8, 0) == 10
    assert target(pool_sizing, 0, 0) == 10


def test_the_target_halves_its_rise_in_every_half_life_and_ends_at_the_least() -> None:
    pool_sizing = PoolSizing()
    target(pool_sizing, 8, 0)
    halves = [target(pool_sizing, 0, n * HALF_LIFE_SECONDS) for n in range(7)]
    assert halves == [10, 6, 4, 3, 3, 2, 2]


def test_looking_often_does_not_make_it_fall_faster() -> None:
    often, seldom = PoolSizing(), PoolSizing()
    target(often, 8, 0)
    target(seldom, 8, 0)
    for tenth in range(int(HALF_LIFE_SECONDS) * 10):
        target(often, 0, tenth / 10)
    assert target(often, 0, HALF_LIFE_SECONDS) == target(seldom, 0, HALF_LIFE_SECONDS) == 6


def test_a_smaller_peak_on_the_way_down_holds_its_own_height() -> None:
    pool_sizing = PoolSizing()
    target(pool_sizing, 8, 0)
    assert target(pool_sizing, 6, HALF_LIFE_SECONDS) == 8
    assert target(pool_sizing, 0, HALF_LIFE_SECONDS * 1.01) == 8


def test_it_never_passes_the_most() -> None:
    assert target(PoolSizing(), 500, 0) == 20


def test_pools_do_not_know_of_each_other_and_are_forgotten() -> None:
    pool_sizing, other = PoolSizing(), uuid4()
    target(pool_sizing, 8, 0)
    assert target(pool_sizing, 0, 0, other) == 2
    pool_sizing.forget({other})
    assert target(pool_sizing, 0, 0) == 2
