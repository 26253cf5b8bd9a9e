"""From measured costs to larger fleets: the same loop, by simulation, on fleets that do not exist here.

A lease costs each part as much as it did on this machine. The cost of the loops at rest comes from the site, and their
growth with the number of databases from ``growth``. Both count for every replica, except work that one replica does for
all. The division of the costs among the steps of a turn is a guess. It affects the time of a turn, not the maximum rate of
turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Final

from pydantic import BaseModel

from freshdb_service.config import Settings
from tests.benchmarks.results import percentile
from tests.benchmarks.scaling.growth import Cost
from tests.benchmarks.scaling.measured import PARTS, Measured, Round
from tests.benchmarks.scaling.simulation import Fleet, Part, Step, simulate

MACHINE_CORES: Final = 2
SERVER_CORES: Final = 4
HOLD_SECONDS: Final = 1.0
_SPARE: Final = 1.25
"""A fleet has enough replicas for this multiple of the requested leases."""
_CONTROL_CONNECTIONS: Final = 22
"""Of each replica to the control plane: its pool, the session with the locks of its claims, and the liveness check."""
_ROUND_TRIP_SECONDS: Final = 0.05
_SETTINGS: Final = Settings()


@dataclass(frozen=True, slots=True)
class Plan:
    """A fleet to be simulated.

    Attributes:
        control_cores: cores of the control plane's server.
        more_replicas: replicas in addition to those that are needed.
        installations: number of installations that share the load. Each has a control plane and a Redis of its own.
        redis_speed: speed of Redis relative to the measured one.
        calm: factor for the intervals of the loops.
    """

    servers: int
    databases: int
    holders: int
    control_cores: int
    more_replicas: int = 0
    installations: int = 1
    redis_speed: float = 1.0
    interval_factor: float = 1.0


class Validation(BaseModel):
    """A measured rate, and the simulation's prediction for the same load."""

    holders: int
    cores: float
    """Cores that other programs left."""
    measured: float
    predicted: float

    @property
    def error(self) -> float:
        """Relative error of the prediction. A positive error means that the prediction is too high."""
        return self.predicted / self.measured - 1


class Forecast(BaseModel):
    """The simulation's results for a plan. Limits and rates are totals of all installations."""

    servers: int
    databases: int
    holders: int
    control_cores: int
    replicas: int
    installations: int
    leases_per_second: float
    acquire_p50_seconds: float
    acquire_p99_seconds: float
    used: dict[str, float]
    limits: dict[str, float]
    control_connections: int
    server_connections: int

    @property
    def first(self) -> str:
        """The part that saturates first."""
        return min(self.limits, key=self.limits.__getitem__)

    @property
    def next(self) -> str:
        """The part that saturates first when replicas are added."""
        return min(self.limits.keys() - {"replica"}, key=self.limits.__getitem__)


@dataclass(frozen=True, slots=True)
class Basis:
    """The measurements that all predictions use."""

    measured: Measured
    costs: Sequence[Cost]

    def loops(self, backend: str, databases: int, replicas: int, *, caller: bool = False) -> float:
        """Return the cores that the loops of all replicas use on a backend, or on the replicas themselves.

        The costs are those of the next larger number of databases that was measured. A call that one replica makes for all
        replicas counts once.
        """
        there = min(
            (one.there for one in self.costs if one.there >= databases),
            default=max(one.there for one in self.costs),
        )
        return sum(
            one.per_second
            * (one.caller_seconds if caller else one.backend_seconds)
            * (1 if one.by_one else replicas)
            for one in self.costs
            if one.backend == backend and one.there == there
        )

    def validation(self, seconds: float) -> list[Validation]:
        """Predict each measured number of holders, from the cost of a lease in the rounds with the most holders."""
        by_holders: dict[int, list[Round]] = {}
        for one in self.measured.rounds:
            by_holders.setdefault(one.holders, []).append(one)
        return [self._validated(holders, rounds, seconds) for holders, rounds in by_holders.items()]

    def _validated(self, holders: int, rounds: Sequence[Round], seconds: float) -> Validation:
        wall = sum(one.seconds for one in rounds)
        others = sum(one.others_cores * one.seconds for one in rounds) / wall
        at_rest = sum(self.measured.idle.cores.values()) * self.measured.replicas
        costs = {part: self.measured.cpu_seconds(part) for part in PARTS}
        acquire, release, reset = _steps(costs)
        here = Fleet(
            parts={"machine": Part(cores=MACHINE_CORES, background=others + at_rest)},
            acquire=[Step("machine", one.seconds) for one in acquire],
            release=[Step("machine", one.seconds) for one in release],
            reset=[Step("machine", one.seconds) for one in reset],
            holders=holders,
            hold_seconds=0.0,
            pools=self.measured.servers,
            databases=self.measured.databases,
            pools_on="machine",
        )
        return Validation(
            holders=holders,
            cores=MACHINE_CORES - others,
            measured=sum(one.leases for one in rounds) / wall,
            predicted=simulate(here, seconds, warm_up_seconds=seconds / 10).leases_per_second,
        )

    def forecast(self, plan: Plan, leases: int) -> Forecast:
        """Simulate one installation of the plan for about this number of leases."""
        share = replace(
            plan,
            servers=plan.servers // plan.installations,
            databases=plan.databases // plan.installations,
            holders=plan.holders // plan.installations,
        )
        replicas = self.replicas_needed(share) + plan.more_replicas
        fleet = self.fleet(share, replicas)
        limits = {part: limit * plan.installations for part, limit in fleet.limits().items()}
        seconds = leases * HOLD_SECONDS / share.holders
        results = simulate(fleet, seconds, warm_up_seconds=3 * HOLD_SECONDS)
        return Forecast(
            **{name: getattr(plan, name) for name in ("servers", "databases", "holders", "control_cores")},
            replicas=replicas * plan.installations,
            installations=plan.installations,
            leases_per_second=results.leases_per_second * plan.installations,
            acquire_p50_seconds=percentile(results.acquires, 50),
            acquire_p99_seconds=percentile(results.acquires, 99),
            used=results.used,
            limits=limits,
            control_connections=replicas * _CONTROL_CONNECTIONS,
            server_connections=replicas * (_SETTINGS.idle_sessions + 2 * _SETTINGS.provision_concurrency),
        )

    def replicas_needed(self, plan: Plan) -> int:
        """Return the number of replicas for the holders' requests and a quarter more."""
        wanted = _SPARE * plan.holders / (HOLD_SECONDS + _ROUND_TRIP_SECONDS)
        work = wanted * self.measured.cpu_seconds("replica")
        return next(number for number in count(1) if number * (1 - self._at_rest(plan, number)) >= work)

    def _at_rest(self, plan: Plan, replicas: int) -> float:
        """Return the share of each replica's core that is used at rest. Work of one replica for all is divided equally."""
        loops = sum(
            self.loops(backend, plan.databases, replicas, caller=True) for backend in ("control", "redis")
        )
        return (self.measured.idle.cores["replica"] + loops / replicas) / plan.interval_factor

    def fleet(self, plan: Plan, replicas: int) -> Fleet:
        """Return the fleet of a plan. Each part has the cores that the loops of all replicas leave."""
        rest = self.measured.idle.cores
        background = {
            "control": replicas * rest["control"] + self.loops("control", plan.databases, replicas),
            "redis": replicas * rest["redis"] + self.loops("redis", plan.databases, replicas),
            "server": replicas * rest["server"] / self.measured.servers,
        }
        cores = {"control": plan.control_cores, "redis": 1, "server": SERVER_CORES}
        background = {part: used / plan.interval_factor for part, used in background.items()}
        background["redis"] /= plan.redis_speed
        costs = {part: self.measured.cpu_seconds(part) for part in PARTS} | {"client": 0.0}
        costs["redis"] /= plan.redis_speed
        acquire, release, reset = _steps(costs)
        return Fleet(
            parts={
                "replica": Part(replicas, 1, self._at_rest(plan, replicas)),
                **{part: Part(1, cores[part], background[part]) for part in ("control", "redis")},
                "server": Part(plan.servers, cores["server"], background["server"]),
            },
            acquire=acquire,
            release=release,
            reset=reset,
            holders=plan.holders,
            hold_seconds=HOLD_SECONDS,
            pools=max(plan.servers, plan.databases // 1_000),
            databases=plan.databases,
        )


def _steps(costs: dict[str, float]) -> tuple[list[Step], list[Step], list[Step]]:
    """Divide each cost equally among acquire, release and reset. A managed server works for the holder and for the reset."""
    third = {part: seconds / 3 for part, seconds in costs.items()}
    asked = [Step(part, third[part]) for part in ("replica", "redis", "control")]
    holder = [Step("client", costs["client"]), Step("server", costs["server"] / 2)]
    return (
        asked,
        [step for step in (*holder, *asked) if step.seconds],
        [
            Step("replica", third["replica"]),
            Step("server", costs["server"] / 2),
            Step("control", third["control"]),
            Step("redis", third["redis"]),
        ],
    )
