"""Gauges of pools and servers: facts of the installation, as one replica last saw them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import time

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from freshdb_service.lifecycle import DatabaseState


@dataclass(frozen=True, slots=True)
class PoolGauges:
    """What is shown of one pool."""

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
    """What is shown of one managed server."""

    name: str
    databases: int
    max_databases: int
    disk_bytes: int
    max_disk_bytes: int


class Gauges(Collector):
    """Gauges of what the replenisher saw in its last round: all of one moment, and nothing of what is gone."""

    def __init__(self) -> None:
        self._pools: Sequence[PoolGauges] = ()
        self._servers: Sequence[ServerGauges] = ()
        self._seen_at = 0.0

    def show(self, pools: Sequence[PoolGauges], servers: Sequence[ServerGauges]) -> None:
        """Have these be all that there are."""
        self._pools, self._servers, self._seen_at = pools, servers, time()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Every gauge."""
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
        for name, said, value in (
            ("freshdb_waiters", "Callers that wait, by pool.", "waiting"),
            (
                "freshdb_queue_age_seconds",
                "How long the first in the queue has waited, by pool.",
                "queue_age_seconds",
            ),
            (
                "freshdb_ready_target",
                "How many databases a pool means to have ready, by pool.",
                "ready_target",
            ),
            ("freshdb_pool_min_ready", "The least that a pool keeps ready.", "min_ready"),
            ("freshdb_pool_max_size", "The most databases that a pool has.", "max_size"),
        ):
            yield _gauge(
                name, said, pool, (((one.template, one.isolation), getattr(one, value)) for one in pools)
            )
        for name, said, value in (
            (
                "freshdb_server_databases",
                "Databases and templates of freshdb's on a managed server.",
                "databases",
            ),
            (
                "freshdb_server_max_databases",
                "The most databases that there may be on a managed server (max_databases).",
                "max_databases",
            ),
            ("freshdb_server_disk_bytes", "What freshdb's databases take on a managed server.", "disk_bytes"),
            (
                "freshdb_server_max_disk_bytes",
                "What freshdb's databases may take on a managed server (max_disk_bytes).",
                "max_disk_bytes",
            ),
        ):
            yield _gauge(name, said, ("server",), (((one.name,), getattr(one, value)) for one in servers))
        yield _gauge(
            "freshdb_pools_seen_timestamp_seconds",
            "When this replica last looked at all pools; the gauges of pools and servers are of then.",
            (),
            [((), self._seen_at)],
        )


def _gauge(
    name: str, said: str, labels: Sequence[str], values: Iterable[tuple[tuple[str, ...], float]]
) -> GaugeMetricFamily:
    """One family. What has the same labels is one series: a name that is there twice would spoil the whole scrape."""
    family = GaugeMetricFamily(name, said, labels=labels)
    summed: dict[tuple[str, ...], float] = {}
    for key, value in values:
        summed[key] = summed.get(key, 0) + value
    for key, value in summed.items():
        family.add_metric(key, value)
    return family
