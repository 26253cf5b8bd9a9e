"""Resource use of a replica and of the servers behind it over time, and a check that it does not grow.

A sample is taken every second. Faults make single samples jump, so medians of two windows are compared: one after the
warm-up, and one at the end. The measured replica is the one that is never killed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import median
from time import monotonic
from typing import Final, LiteralString

import psutil
import psycopg
from psycopg.conninfo import make_conninfo

SHORTEST_SECONDS: Final = 60.0
"""Shorter runs are not checked, because they do not get past the warm-up."""
_EARLY: Final = (0.3, 0.5)
_LATE: Final = (0.8, 1.0)


@dataclass(frozen=True, slots=True)
class Bound:
    """Allowed growth: a share of the early value, plus a fixed amount."""

    share: float
    amount: float


BOUNDS: Final[Mapping[str, Bound]] = {
    "memory of a replica, MB": Bound(0.1, 12),
    "file descriptors of a replica": Bound(0.1, 20),
    "processes of the control plane's server": Bound(0.1, 10),
    "processes of the managed server one": Bound(0.1, 20),
    "processes of the managed server two": Bound(0.1, 20),
    "keys in Redis": Bound(0.1, 20),
    "dead rows in the control plane's tables": Bound(0.5, 2_000),
    "shared catalogs of the managed server one, kB": Bound(0.2, 200),
    "shared catalogs of the managed server two, kB": Bound(0.2, 200),
    "catalogs of a database of schemas, kB": Bound(0.2, 1_000),
}

_DEAD_ROWS: Final = "SELECT coalesce(sum(n_dead_tup), 0) FROM pg_stat_user_tables"
_SHARED_CATALOGS: Final = """
SELECT sum(pg_total_relation_size(oid)) / 1024 FROM pg_class WHERE relisshared AND relkind = 'r'
"""
_CATALOGS: Final = """
SELECT sum(pg_total_relation_size(oid)) / 1024 FROM pg_class
WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind = 'r' AND NOT relisshared
"""
_OF_SCHEMAS: Final = "SELECT min(datname) FROM pg_database WHERE datname LIKE '%\\_h\\_%' AND datallowconn"

Sample = Mapping[str, float]


@dataclass(slots=True)
class Measures:
    """Samples of one run."""

    samples: list[tuple[float, Sample]] = field(default_factory=list)

    async def take(self, measure: Callable[[], Sample]) -> None:
        """Take one sample every second until cancelled. A value that cannot be read because of a fault is left out."""
        began = monotonic()
        while True:
            self.samples.append((monotonic() - began, await asyncio.to_thread(measure)))
            await asyncio.sleep(1)

    def windows(self) -> dict[str, tuple[float, float]]:
        """Return the medians after the warm-up and at the end."""
        if not self.samples or self.samples[-1][0] < SHORTEST_SECONDS:
            return {}
        early, late = self._within(*_EARLY), self._within(*_LATE)
        return {
            name: (median(early[name]), median(late[name]))
            for name in BOUNDS
            if name in early and name in late
        }

    def _within(self, begin: float, end: float) -> dict[str, list[float]]:
        whole = self.samples[-1][0]
        found: dict[str, list[float]] = {}
        for at, sample in self.samples:
            if begin * whole <= at <= end * whole:
                for name, value in sample.items():
                    found.setdefault(name, []).append(value)
        return found


def growth(windows: Mapping[str, tuple[float, float]]) -> list[str]:
    """Return every value that grew beyond its bound."""
    return [
        f"{name} grew from {early:.0f} to {late:.0f}"
        for name, (early, late) in windows.items()
        if late > early * (1 + BOUNDS[name].share) + BOUNDS[name].amount
    ]


def measure_process(pid: int) -> dict[str, float]:
    """Measure a replica."""
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        return {
            "memory of a replica, MB": process.memory_info().rss / 2**20,
            "file descriptors of a replica": process.num_fds(),
        }
    return {}


def measure_servers(names: Sequence[str], pids: Sequence[int]) -> dict[str, float]:
    """Measure PostgreSQL servers, given by the PIDs of their postmasters."""
    found: dict[str, float] = {}
    for name, pid in zip(names, pids, strict=True):
        with suppress(psutil.Error):
            found[f"processes of {name}"] = len(psutil.Process(pid).children())
    return found


def measure_catalogs(control: str, managed: Mapping[str, str]) -> dict[str, float]:
    """Measure what only a vacuum keeps small, because autovacuum is off on these servers.

    Args:
        control: DSN of the control plane's database.
        managed: DSNs of the managed servers by their names.
    """
    found: dict[str, float] = {}
    with suppress(psycopg.Error):
        found["dead rows in the control plane's tables"] = _number(control, _DEAD_ROWS)
    of_schemas = 0.0
    for name, dsn in managed.items():
        with suppress(psycopg.Error):
            found[f"shared catalogs of {name}, kB"] = _number(dsn, _SHARED_CATALOGS)
            with psycopg.connect(dsn, connect_timeout=1) as connection:
                row = connection.execute(_OF_SCHEMAS).fetchone()
            if row is not None and row[0] is not None:
                of_schemas = max(of_schemas, _number(make_conninfo(dsn, dbname=row[0]), _CATALOGS))
    if of_schemas:
        found["catalogs of a database of schemas, kB"] = of_schemas
    return found


def _number(dsn: str, query: LiteralString) -> float:
    with psycopg.connect(dsn, connect_timeout=1) as connection:
        row = connection.execute(query).fetchone()
    assert row is not None
    return float(row[0])
