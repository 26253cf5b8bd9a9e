"""A small discrete-event simulation: stations with cores, and holders who go round and round through them.

A station serves in the order of arrival, so many at once as it has cores. What it has to do besides (its background: loops
that run whether anybody leases or not) makes each of its cores slower by that much. Service times are drawn around their
mean, exponentially unless told otherwise; the seed is given, so that the same question gets the same answer.

One turn of a holder: acquire (wait for a ready database of the pool that it draws; then the steps of ``acquire``), hold,
release. Behind it the database goes through the steps of ``reset``, and is ready again. Databases are counted, not made: a
fleet of 100,000 costs no more than one of 100.
"""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from random import Random

Draw = Callable[[float], float]
"""A time around this mean."""


class Clock:
    """What is to happen, and when."""

    def __init__(self) -> None:
        self.now = 0.0
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Have something happen in so many seconds; of two at the same instant the one that was planned first."""
        heapq.heappush(self._agenda, (self.now + seconds, next(self._order), action))

    def run(self, until: float) -> None:
        """Let everything happen that is due until then."""
        while self._agenda and self._agenda[0][0] <= until:
            self.now, _, action = heapq.heappop(self._agenda)
            action()
        self.now = until


class Station:
    """Serves so many at once as it has cores, first come, first served."""

    def __init__(self, clock: Clock, cores: int, background: float = 0.0) -> None:
        if not 0 <= background < cores:
            message = f"a background of {background:.2f} cores leaves nothing of {cores}"
            raise ValueError(message)
        self._clock = clock
        self._free = cores
        self._slower = cores / (cores - background)
        self._queue: deque[tuple[float, Callable[[], None]]] = deque()
        self.served_seconds = 0.0
        """Of service that was begun, without the background."""

    def serve(self, seconds: float, then: Callable[[], None]) -> None:
        """Go on with ``then`` once this took its time, and the time before its turn."""
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
    """Stations of one kind: each lease goes to one of them.

    Attributes:
        number: how many there are.
        cores: of each.
        background: cores of each that do something else.
    """

    number: int = 1
    cores: int = 1
    background: float = 0.0


@dataclass(frozen=True, slots=True)
class Step:
    """So many seconds, on average, at a station of this part."""

    part: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Fleet:
    """What there is, and what a turn of a holder asks of it.

    Attributes:
        parts: by name.
        acquire, release, reset: the steps of a turn; those of ``reset`` keep nobody but the database.
        holders: how many go round.
        hold_seconds: for how long each keeps its lease.
        pools: each has its databases on a server of its own.
        databases: in all pools together.
        pools_on: the part that a pool belongs to one station of.
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
        """What all stations of a part have left for leases."""
        one = self.parts[part]
        return one.number * (one.cores - one.background)

    def limits(self) -> dict[str, float]:
        """Leases per second at which each part would have nothing left."""
        taken: defaultdict[str, float] = defaultdict(float)
        for step in (*self.acquire, *self.release, *self.reset):
            taken[step.part] += step.seconds
        return {part: self.cores(part) / seconds for part, seconds in taken.items() if seconds > 0}


@dataclass(slots=True)
class Seen:
    """What came of it, after the warm-up."""

    seconds: float
    leases: int = 0
    acquires: list[float] = field(default_factory=list)
    """Seconds from asking to the lease."""
    used: dict[str, float] = field(default_factory=dict)
    """Of each part's cores, the share at work for leases or in the background."""

    @property
    def leases_per_second(self) -> float:
        """The turnover."""
        return self.leases / self.seconds


def simulate(
    fleet: Fleet, seconds: float, *, warm_up_seconds: float, seed: int = 1, draw: Draw | None = None
) -> Seen:
    """Let the holders go round for so long, after a warm-up that does not count."""
    world = _World(fleet, seed, draw)
    world.clock.run(warm_up_seconds)
    before = world.served()
    world.seen = seen = Seen(seconds)
    world.clock.run(warm_up_seconds + seconds)
    for name, served in world.served().items():
        part = fleet.parts[name]
        at_work = (served - before[name]) / seconds + part.number * part.background
        seen.used[name] = at_work / (part.number * part.cores)
    return seen


class _World:
    def __init__(self, fleet: Fleet, seed: int, draw: Draw | None) -> None:
        self.fleet = fleet
        self.clock = Clock()
        self.seen: Seen | None = None
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
        """Seconds of service so far, by part."""
        return {name: sum(one.served_seconds for one in all_) for name, all_ in self._stations.items()}

    def _turn(self) -> None:
        asked_at, pool = self.clock.now, self._random.randrange(self.fleet.pools)
        places = {name: self._random.randrange(len(all_)) for name, all_ in self._stations.items()}
        places[self.fleet.pools_on] = pool % len(self._stations[self.fleet.pools_on])

        def granted() -> None:
            self._walk(iter(self.fleet.acquire), places, held)

        def held() -> None:
            if self.seen is not None:
                self.seen.acquires.append(self.clock.now - asked_at)
            self.clock.after(self._draw(self.fleet.hold_seconds), release)

        def release() -> None:
            self._walk(iter(self.fleet.release), places, released)

        def released() -> None:
            if self.seen is not None:
                self.seen.leases += 1
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
