"""From what was measured to what was not: the same loop, by simulation, on fleets that are not here.

A lease costs each part what it cost on this machine. What loops cost at rest comes from the site, and what they cost the
more there is, from ``growth``: both for every replica, but for what one does for all. How the costs are divided among the
steps of a turn is a guess, and matters to how long a turn takes, not to how many there can be.
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
"""Replicas as needed: for so many times the leases that are asked for."""
_CONTROL_CONNECTIONS: Final = 22
"""Of each replica to the control plane: its pool, the session that shows its claims, the one that feels the pulse."""
_ROUND_TRIP_SECONDS: Final = 0.05
_SETTINGS: Final = Settings()


@dataclass(frozen=True, slots=True)
class Plan:
    """A fleet that somebody may want.

    Attributes:
        control_cores: of the control plane's server.
        more_replicas: than are needed.
        installations: into so many it is divided, each with its share, and a control plane and a Redis of its own.
        redis_speed: how much faster than the one that was measured.
        calm: so many times longer the loops rest between two rounds.
    """

    servers: int
    databases: int
    holders: int
    control_cores: int
    more_replicas: int = 0
    installations: int = 1
    redis_speed: float = 1.0
    calm: float = 1.0


class Validation(BaseModel):
    """What was measured, against what the simulation says of the same."""

    holders: int
    cores: float
    """That other programs had left."""
    measured: float
    predicted: float

    @property
    def error(self) -> float:
        """By how much the prediction is too high (or, negative, too low), as a part of what was measured."""
        return self.predicted / self.measured - 1


class Forecast(BaseModel):
    """What the simulation says of a plan; limits and rates are those of all installations together."""

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
        """The one that does when replicas are added."""
        return min(self.limits.keys() - {"replica"}, key=self.limits.__getitem__)


@dataclass(frozen=True, slots=True)
class Basis:
    """What everything is computed from."""

    measured: Measured
    costs: Sequence[Cost]

    def loops(self, backend: str, databases: int, replicas: int, *, caller: bool = False) -> float:
        """Cores that the loops of all replicas take of a backend, or of the replicas themselves.

        By the next larger number of databases that was measured. What one replica does for all is counted once.
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
        """Predict every number of holders that was measured, from what the leases of the rounds with the most cost."""
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
        """Simulate one installation of the plan for about so many leases."""
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
        seen = simulate(fleet, seconds, warm_up_seconds=3 * HOLD_SECONDS)
        return Forecast(
            **{name: getattr(plan, name) for name in ("servers", "databases", "holders", "control_cores")},
            replicas=replicas * plan.installations,
            installations=plan.installations,
            leases_per_second=seen.leases_per_second * plan.installations,
            acquire_p50_seconds=percentile(seen.acquires, 50),
            acquire_p99_seconds=percentile(seen.acquires, 99),
            used=seen.used,
            limits=limits,
            control_connections=replicas * _CONTROL_CONNECTIONS,
            server_connections=replicas * (_SETTINGS.idle_sessions + 2 * _SETTINGS.provision_concurrency),
        )

    def replicas_needed(self, plan: Plan) -> int:
        """For what its holders ask for, and a quarter more."""
        wanted = _SPARE * plan.holders / (HOLD_SECONDS + _ROUND_TRIP_SECONDS)
        work = wanted * self.measured.cpu_seconds("replica")
        return next(number for number in count(1) if number * (1 - self._at_rest(plan, number)) >= work)

    def _at_rest(self, plan: Plan, replicas: int) -> float:
        """Of the core of each replica; what one does for all is divided among them, as if they took turns."""
        loops = sum(
            self.loops(backend, plan.databases, replicas, caller=True) for backend in ("control", "redis")
        )
        return (self.measured.idle.cores["replica"] + loops / replicas) / plan.calm

    def fleet(self, plan: Plan, replicas: int) -> Fleet:
        """What there is, each part with what the loops of all replicas leave of it."""
        rest = self.measured.idle.cores
        background = {
            "control": replicas * rest["control"] + self.loops("control", plan.databases, replicas),
            "redis": replicas * rest["redis"] + self.loops("redis", plan.databases, replicas),
            "server": replicas * rest["server"] / self.measured.servers,
        }
        cores = {"control": plan.control_cores, "redis": 1, "server": SERVER_CORES}
        background = {part: used / plan.calm for part, used in background.items()}
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
    """A third of everything for each of acquire, release and reset; a managed server sees the holder, and the reset."""
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
