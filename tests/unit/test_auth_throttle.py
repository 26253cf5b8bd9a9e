from __future__ import annotations

import logging

import pytest

from freshdb_service.api.auth_throttle import AuthThrottle


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_attempts_are_limited_per_minute_and_refill(clock: Clock) -> None:
    attempts = AuthThrottle(6, clock=clock)
    for _ in range(6):
        assert attempts.wait_seconds("a") == 0
        attempts.note("a")
    assert attempts.wait_seconds("a") == pytest.approx(10)
    assert attempts.wait_seconds("b") == 0
    clock.now += 4
    assert attempts.wait_seconds("a") == pytest.approx(6)
    clock.now += 6
    assert attempts.wait_seconds("a") == 0
    attempts.note("a")
    assert attempts.wait_seconds("a") == pytest.approx(10)
    clock.now += 3600
    for _ in range(6):
        assert attempts.wait_seconds("a") == 0
        attempts.note("a")
    assert attempts.wait_seconds("a") > 0


def test_throttled_address_is_logged_once(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    attempts = AuthThrottle(4, clock=clock)
    with caplog.at_level(logging.WARNING):
        for _ in range(50):
            if not attempts.wait_seconds("192.0.2.1"):
                attempts.note("192.0.2.1")
            clock.now += 1
    assert [record.getMessage().count("192.0.2.1") for record in caplog.records] == [1]


def test_number_of_remembered_addresses_is_limited(clock: Clock) -> None:
    attempts = AuthThrottle(1, clock=clock)
    for number in range(20_000):
        attempts.note(str(number))
    assert attempts.wait_seconds("19999") > 0
    assert attempts.wait_seconds("0") == 0
    assert len(attempts._buckets) == 10_000
