"""Predictions for fleets, from costs whose result is obvious."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.benchmarks.scaling.fleet import Basis, Plan
from tests.benchmarks.scaling.growth import Cost
from tests.benchmarks.scaling.measured import Idle, Measured, Round

CPU_SECONDS = {"replica": 0.004, "control": 0.002, "server": 0.002, "redis": 0.001, "client": 0.001}
REST = Idle(
    cores={"replica": 0.1, "control": 0.02, "server": 0.04, "redis": 0.01},
    statements=5,
    commands=10,
    scripts=1,
)


def measured(*, leases: int, holders: int, others_cores: float = 0.0) -> Measured:
    """A site on which a lease costs 10 ms of processor time in all, in addition to 0.51 cores at rest."""
    at_rest = {part: 3 * REST.cores.get(part, 0.0) * 10 for part in CPU_SECONDS}
    one = Round(
        holders=holders,
        leases=leases,
        seconds=10,
        cpu_seconds={part: cost * leases + at_rest[part] for part, cost in CPU_SECONDS.items()},
        others_cores=others_cores,
        statements=3 * leases + 150,
        commands=20 * leases + 300,
        scripts=5 * leases + 30,
        by_replica=[leases],
        by_server={"s1": leases},
        acquire_p50_seconds=0.01,
        acquire_p99_seconds=0.02,
    )
    return Measured(replicas=3, servers=4, databases=64, rounds=[one], idle=REST)


def cost(there: int, seconds: float, *, backend: str = "control", per_second: float = 0.5) -> Cost:
    return Cost(
        what="count",
        backend=backend,
        there=there,
        per_second=per_second,
        backend_seconds=seconds,
        caller_seconds=seconds / 10,
    )


def test_cost_of_a_lease_excludes_the_use_at_rest() -> None:
    installation = measured(leases=1_000, holders=16)
    assert {part: installation.cpu_seconds(part) for part in CPU_SECONDS} == pytest.approx(CPU_SECONDS)
    assert (installation.per_lease("statements"), installation.per_lease("commands")) == pytest.approx(
        (3, 20)
    )


@pytest.mark.parametrize("others_cores", [0.0, 1.0])
def test_many_holders_are_predicted_to_use_all_cores_left_by_others(others_cores: float) -> None:
    installation = measured(leases=1_000, holders=16, others_cores=others_cores)
    (found,) = Basis(installation, []).validation(60)
    assert found.predicted == pytest.approx((2 - others_cores - 0.51) / 0.01, rel=0.03)
    assert found.error == pytest.approx(found.predicted / 100 - 1)


def test_fleet_is_limited_by_the_part_that_saturates_first() -> None:
    basis = Basis(measured(leases=1_000, holders=16), [cost(1_000, 0.01), cost(10_000, 0.1)])
    plan = Plan(servers=10, databases=5_000, holders=200, control_cores=2)
    found = basis.forecast(plan, 10_000)
    replicas = found.replicas
    # Each replica uses 0.1 of its core at rest, and a tenth of 0.05 for its share of the loops.
    assert found.limits["replica"] == pytest.approx(replicas * (1 - 0.1 - 0.005) / 0.004)
    assert found.limits["control"] == pytest.approx((2 - replicas * (0.02 + 0.05)) / 0.002)
    assert found.limits["redis"] == pytest.approx((1 - replicas * 0.01) / 0.001)
    assert found.first == "replica"
    assert found.leases_per_second == pytest.approx(200 / 1.01, rel=0.04)
    assert basis.forecast(replace(plan, more_replicas=8), 200).first == "control"


def test_cost_of_loops_is_that_of_the_next_larger_size() -> None:
    basis = Basis(measured(leases=1_000, holders=16), [cost(1_000, 0.01), cost(10_000, 0.1)])
    loops = [basis.loops("control", there, 1) for there in (100, 1_000, 1_001, 50_000)]
    assert loops == pytest.approx([0.005, 0.005, 0.05, 0.05])


def test_work_of_one_replica_for_all_is_counted_once() -> None:
    each, once = cost(1_000, 0.01), cost(1_000, 0.1).model_copy(update={"by_one": True})
    basis = Basis(measured(leases=1_000, holders=16), [each, once])
    assert basis.loops("control", 1_000, 4) == pytest.approx(4 * 0.005 + 0.05)
    assert basis.loops("control", 1_000, 4, caller=True) == pytest.approx(4 * 0.0005 + 0.005)


def test_installations_divide_the_load() -> None:
    basis = Basis(measured(leases=1_000, holders=16), [cost(1_000, 0.0)])
    plan = Plan(servers=4, databases=400, holders=100, control_cores=1)
    one, two = (basis.forecast(replace(plan, installations=n), 2_000) for n in (1, 2))
    assert two.limits["redis"] == pytest.approx(2 * one.limits["redis"], rel=0.02)
    assert two.leases_per_second == pytest.approx(one.leases_per_second, rel=0.1)
