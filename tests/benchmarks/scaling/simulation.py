"""A small discrete-event simulation: stations with cores, and holders that repeat a loop through them.

A station serves in the order of arrival, as many requests at a time as it has cores. Its background (loops that run even
without clients) slows down each of its cores in proportion. Service times are drawn around their mean, by default from an
exponential distribution. The seed is fixed, so that the same input gets the same result.

One turn of a holder is acquire, hold, release. To acquire, it waits for a ready database of the pool that it draws, and goes
through the steps of ``acquire``. After the release, the database goes through the steps of ``reset``, and is ready again.
Databases are only counted, so a fleet of 100,000 costs no more than one of 100.
"""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from random import Random

Draw = Callable[[float], float]
"""Draw a time around this mean."""


class Clock:
    """Simulated time, and the events that are due later."""

    def __init__(self) -> None:
        self.now = 0.0
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Schedule an action after this time. Actions of the same instant run in the order of scheduling."""
        heapq.heappush(self._agenda, (self.now + seconds, next(self._order), action))

    def run(self, until: float) -> None:
        """Run all actions that are due until this time."""
        while self._agenda and self._agenda[0][0] <= until:
            self.now, _, action = heapq.heappop(self._agenda)
            action()
        self.now = until


class Station:
    """Serves as many requests at a time as it has cores, first come, first served."""

    def __init__(self, clock: Clock, cores: int, background: float = 0.0) -> None:
        if not 0 <= background < cores:
            message = f"a background of {background:.2f} cores leaves nothing of {cores}"
            raise ValueError(message)
        self._clock = clock
        self._free = cores
        self._slower = cores / (cores - background)
        self._queue: deque[tuple[float, Callable[[], None]]] = deque()
        self.served_seconds = 0.0
        """Seconds of service that was begun, without the background."""

    def serve(self, seconds: float, then: Callable[[], None]) -> None:
        """Call ``then`` after the wait in the queue and this time of service."""
        if not self._free:
            self._queue.append((seconds, then))
            return
        self._free -= 1
        self._begin(seconds, then)

    def _begin(self, seconds: float, then: Callable[[], None]) -> None:
        def done() -> None:
            if self._queue:
                self._begin(*self._queue.popleft())
            else:
                self._free += 1
            then()

        self.served_seconds += seconds
        self._clock.after(seconds * self._slower, done)


@dataclass(frozen=True, slots=True)
class Part:
    """Stations of one kind. Each lease uses one of them.

    Attributes:
        number: number of stations.
        cores: cores of each station.
        background: cores of each station that are used for other work.
    """

    number: int = 1
    cores: int = 1
    background: float = 0.0


@dataclass(frozen=True, slots=True)
class Step:
    """A service of this average length at a station of this part."""

    part: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Fleet:
    """The parts of a fleet, and their use in one turn of a holder.

    Attributes:
        parts: parts by name.
        acquire, release, reset: steps of a turn. Those of ``reset`` occupy only the database.
        holders: number of holders.
        hold_seconds: average time for which a holder keeps its lease.
        pools: number of pools. All databases of a pool are on one server.
        databases: number of databases in all pools.
        pools_on: part whose stations hold the pools, each pool on one station.
    """

    parts: Mapping[str, Part]
    acquire: Sequence[Step]
    release: Sequence[Step]
    reset: Sequence[Step]
    holders: int
    hold_seconds: float
    pools: int
    databases: int
    pools_on: str = "server"

    def cores(self, part: str) -> float:
        """Return the cores that all stations of a part have left for leases."""
        one = self.parts[part]
        return one.number * (one.cores - one.background)

    def limits(self) -> dict[str, float]:
        """Return, for each part, the leases per second that would use all of its cores."""
        taken: defaultdict[str, float] = defaultdict(float)
        for step in (*self.acquire, *self.release, *self.reset):
            taken[step.part] += step.seconds
        return {part: self.cores(part) / seconds for part, seconds in taken.items() if seconds > 0}


@dataclass(slots=True)
class Results:
    """Results of the simulation after the warm-up."""

    seconds: float
    leases: int = 0
    acquires: list[float] = field(default_factory=list)
    """Seconds from each request to its lease."""
    used: dict[str, float] = field(default_factory=dict)
    """Share of each part's cores that is used for leases or in the background."""

    @property
    def leases_per_second(self) -> float:
        """Turnover."""
        return self.leases / self.seconds


def simulate(
    fleet: Fleet, seconds: float, *, warm_up_seconds: float, seed: int = 1, draw: Draw | None = None
) -> Results:
    """Run the holders for this time, after a warm-up that is not counted."""
    simulation = _Simulation(fleet, seed, draw)
    simulation.clock.run(warm_up_seconds)
    before = simulation.served()
    simulation.results = results = Results(seconds)
    simulation.clock.run(warm_up_seconds + seconds)
    for name, served in simulation.served().items():
        part = fleet.parts[name]
        at_work = (served - before[name]) / seconds + part.number * part.background
        results.used[name] = at_work / (part.number * part.cores)
    return results


class _Simulation:
    def __init__(self, fleet: Fleet, seed: int, draw: Draw | None) -> None:
        self.fleet = fleet
        self.clock = Clock()
        self.results: Results | None = None
        self._random = Random(seed)  # noqa: S311 - a simulation
        self._draw = draw or (lambda mean: self._random.expovariate(1 / mean) if mean else 0.0)
        self._stations = {
            name: [Station(self.clock, part.cores, part.background) for _ in range(part.number)]
            for name, part in fleet.parts.items()
        }
        share, more = divmod(fleet.databases, fleet.pools)
        self._ready = [share + (number < more) for number in range(fleet.pools)]
        self._waiting: list[deque[Callable[[], None]]] = [deque() for _ in range(fleet.pools)]
        for _ in range(fleet.holders):
            self.clock.after(self._random.random() * fleet.hold_seconds, self._turn)

    def served(self) -> dict[str, float]:
        """Return the seconds of service so far, by part."""
        return {name: sum(one.served_seconds for one in all_) for name, all_ in self._stations.items()}

    def _turn(self) -> None:
        asked_at, pool = self.clock.now, self._random.randrange(self.fleet.pools)
        places = {name: self._random.randrange(len(all_)) for name, all_ in self._stations.items()}
        places[self.fleet.pools_on] = pool % len(self._stations[self.fleet.pools_on])

        def granted() -> None:
            self._walk(iter(self.fleet.acquire), places, held)

        def held() -> None:
            if self.results is not None:
                self.results.acquires.append(self.clock.now - asked_at)
            self.clock.after(self._draw(self.fleet.hold_seconds), release)

        def release() -> None:
            self._walk(iter(self.fleet.release), places, released)

        def released() -> None:
            if self.results is not None:
                self.results.leases += 1
            self._walk(iter(self.fleet.reset), places, clean)
            self._turn()

        def clean() -> None:
            if self._waiting[pool]:
                self._waiting[pool].popleft()()
            else:
                self._ready[pool] += 1

        if self._ready[pool]:
            self._ready[pool] -= 1
            granted()
        else:
            self._waiting[pool].append(granted)

    def _walk(self, steps: Iterator[Step], places: Mapping[str, int], then: Callable[[], None]) -> None:
        step = next(steps, None)
        if step is None:
            then()
            return
        station = self._stations[step.part][places[step.part]]
        station.serve(self._draw(step.seconds), lambda: self._walk(steps, places, then))
