"""The simulator, compared with exact results of queueing theory."""

from __future__ import annotations

from dataclasses import replace
from math import factorial
from random import Random
from statistics import fmean

import pytest

from tests.benchmarks.scaling.simulation import Clock, Draw, Fleet, Part, Station, Step, simulate

CUSTOMERS = 60_000


def sojourns(cores: int, arrivals: Draw, service: Draw, *, background: float = 0.0) -> list[float]:
    """Return the time each customer spends there. One arrives per second on average, with 0.8 s of work per core."""
    clock, spent = Clock(), list[float]()
    station = Station(clock, cores, background)

    def arrive() -> None:
        arrived = clock.now
        station.serve(service(0.8 * cores), lambda: spent.append(clock.now - arrived))
        clock.after(arrivals(1.0), arrive)

    arrive()
    clock.run(CUSTOMERS)
    return spent


@pytest.fixture
def exponential() -> Draw:
    random = Random(7)  # noqa: S311 - a simulation
    return lambda mean: random.expovariate(1 / mean)


def constant(mean: float) -> float:
    return mean


def erlang_c(cores: int, offered: float) -> float:
    """Return the probability that an arriving customer finds every core busy."""
    all_busy = offered**cores / factorial(cores) * cores / (cores - offered)
    return all_busy / (sum(offered**n / factorial(n) for n in range(cores)) + all_busy)


@pytest.mark.parametrize("cores", [1, 2, 4])
def test_time_at_a_station_equals_erlangs_formula(cores: int, exponential: Draw) -> None:
    service, offered = 0.8 * cores, 0.8 * cores
    expected = service + erlang_c(cores, offered) * service / (cores - offered)
    assert fmean(sojourns(cores, exponential, exponential)) == pytest.approx(expected, rel=0.06)


def test_regular_arrivals_do_not_wait() -> None:
    assert {round(taken, 6) for taken in sojourns(1, constant, constant)} == {0.8}


def test_background_slows_down_a_station() -> None:
    assert max(sojourns(2, constant, constant, background=0.4)) == pytest.approx(1.6 * 2 / 1.6)
    with pytest.raises(ValueError, match="leaves nothing"):
        Station(Clock(), 1, background=1.0)


def mean_value_analysis(demands: dict[str, float], think_seconds: float, customers: int) -> float:
    """Return the exact throughput of a closed network of single servers."""
    lengths, throughput = dict.fromkeys(demands, 0.0), 0.0
    for number in range(1, customers + 1):
        spent = {name: demand * (1 + lengths[name]) for name, demand in demands.items()}
        throughput = number / (think_seconds + sum(spent.values()))
        lengths = {name: throughput * taken for name, taken in spent.items()}
    return throughput


def fleet(holders: int, hold_seconds: float = 0.05, databases: int = 1_000, **parts: Part) -> Fleet:
    return Fleet(
        parts={"replica": Part(), "control": Part(), "server": Part(), **parts},
        acquire=[Step("replica", 0.004), Step("control", 0.003)],
        release=[Step("server", 0.008)],
        reset=[],
        holders=holders,
        hold_seconds=hold_seconds,
        pools=1,
        databases=databases,
    )


@pytest.mark.parametrize("holders", [1, 4, 20])
def test_throughput_equals_mean_value_analysis(holders: int) -> None:
    expected = mean_value_analysis({"replica": 0.004, "control": 0.003, "server": 0.008}, 0.05, holders)
    results = simulate(fleet(holders), 300, warm_up_seconds=10)
    assert results.leases_per_second == pytest.approx(expected, rel=0.03)
    assert results.used["server"] == pytest.approx(expected * 0.008, rel=0.04)


def test_single_pool_uses_one_of_many_stations() -> None:
    one, ten = (simulate(fleet(400, server=Part(number)), 20, warm_up_seconds=5) for number in (1, 10))
    assert fleet(400).limits()["server"] == pytest.approx(125)
    assert one.leases_per_second == pytest.approx(125, rel=0.05)
    # A single pool is on one server, so all other servers are idle.
    assert ten.leases_per_second == pytest.approx(125, rel=0.05)
    assert ten.used["server"] == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize(("databases", "turn_seconds"), [(1, 0.065 + 0.1), (2, 0.165 / 2)])
def test_acquire_without_ready_database_waits_for_a_reset(databases: int, turn_seconds: float) -> None:
    few = replace(fleet(8, databases=databases, cleaner=Part(8)), reset=[Step("cleaner", 0.1)])
    results = simulate(few, 100, warm_up_seconds=5, draw=constant)
    assert results.leases_per_second == pytest.approx(1 / turn_seconds, rel=0.05)
