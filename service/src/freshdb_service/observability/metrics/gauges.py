"""Gauges of pools and servers, which describe the installation as one replica last saw it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import time

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from freshdb_service.lifecycle import DatabaseState


@dataclass(frozen=True, slots=True)
class PoolGauges:
    """Values of the gauges of one pool."""

    template: str
    isolation: str
    databases: Mapping[DatabaseState, int]
    waiting: int
    queue_age_seconds: float
    ready_target: int
    min_ready: int
    max_size: int


@dataclass(frozen=True, slots=True)
class ServerGauges:
    """Values of the gauges of one managed server."""

    name: str
    databases: int
    max_databases: int
    disk_bytes: int
    max_disk_bytes: int


class Gauges(Collector):
    """Gauges from the last run of the replenisher. They are of one instant, and removed pools have none."""

    def __init__(self) -> None:
        self._pools: Sequence[PoolGauges] = ()
        self._servers: Sequence[ServerGauges] = ()
        self._seen_at = 0.0

    def show(self, pools: Sequence[PoolGauges], servers: Sequence[ServerGauges]) -> None:
        """Replace all values."""
        self._pools, self._servers, self._seen_at = pools, servers, time()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield all gauges."""
        pools, servers = self._pools, self._servers
        pool = ("template", "isolation")
        yield _gauge(
            "freshdb_databases",
            "Databases by pool and state.",
            (*pool, "state"),
            (
                ((one.template, one.isolation, state), one.databases.get(state, 0))
                for one in pools
                for state in DatabaseState
            ),
        )
        for name, text, value in (
            ("freshdb_waiters", "Callers in the queue, by pool.", "waiting"),
            (
                "freshdb_queue_age_seconds",
                "Wait of the first caller in the queue, by pool.",
                "queue_age_seconds",
            ),
            ("freshdb_ready_target", "Target number of ready databases, by pool.", "ready_target"),
            ("freshdb_pool_min_ready", "Minimum ready databases of a pool (min_ready).", "min_ready"),
            ("freshdb_pool_max_size", "Maximum databases of a pool (max_size).", "max_size"),
        ):
            yield _gauge(
                name, text, pool, (((one.template, one.isolation), getattr(one, value)) for one in pools)
            )
        for name, text, value in (
            (
                "freshdb_server_databases",
                "Number of freshdb's databases and templates on a managed server.",
                "databases",
            ),
            (
                "freshdb_server_max_databases",
                "Maximum databases on a managed server (max_databases).",
                "max_databases",
            ),
            (
                "freshdb_server_disk_bytes",
                "Disk space of freshdb's databases on a managed server.",
                "disk_bytes",
            ),
            (
                "freshdb_server_max_disk_bytes",
                "Maximum disk space of freshdb's databases on a managed server (max_disk_bytes).",
                "max_disk_bytes",
            ),
        ):
            yield _gauge(name, text, ("server",), (((one.name,), getattr(one, value)) for one in servers))
        yield _gauge(
            "freshdb_pools_seen_timestamp_seconds",
            "Time at which this replica last updated the gauges of pools and servers.",
            (),
            [((), self._seen_at)],
        )


def _gauge(
    name: str, text: str, labels: Sequence[str], values: Iterable[tuple[tuple[str, ...], float]]
) -> GaugeMetricFamily:
    """Create a metric family. Values with equal labels are added, because a duplicate series would fail the whole scrape."""
    family = GaugeMetricFamily(name, text, labels=labels)
    summed: dict[tuple[str, ...], float] = {}
    for key, value in values:
        summed[key] = summed.get(key, 0) + value
    for key, value in summed.items():
        family.add_metric(key, value)
    return family
