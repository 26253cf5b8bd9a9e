"""Growth is found. Flat values, and values that jump and come back, are not reported."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.soak.measures import Measures, growth

NAME = "keys in Redis"


def run(value: Callable[[int], float], seconds: int = 300) -> list[str]:
    return growth(Measures([(float(at), {NAME: value(at)}) for at in range(seconds)]).windows())


@pytest.mark.parametrize(
    "value",
    [
        lambda _: 100,
        lambda at: min(at, 60),  # warming up
        lambda at: 1000 if at % 10 == 0 else 50,  # a fault now and then
        lambda at: 100 - at / 10,
    ],
)
def test_flat_values_are_not_reported(value: Callable[[int], float]) -> None:
    assert run(value) == []


@pytest.mark.parametrize("value", [lambda at: at, lambda at: 100 + at / 4 if at % 7 else 0])
def test_growth_is_reported(value: Callable[[int], float]) -> None:
    [line] = run(value)
    assert line.startswith(f"{NAME} grew from ")


def test_short_run_is_not_checked() -> None:
    assert run(lambda at: 100 * at, seconds=30) == []


def test_missing_samples_are_left_out() -> None:
    samples = [(float(at), {NAME: 5.0} if at % 2 else {}) for at in range(100)]
    assert Measures(list(samples)).windows() == {NAME: (5.0, 5.0)}
