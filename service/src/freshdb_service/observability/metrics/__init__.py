"""What the service counts: one registry per replica, read at ``/metrics``.

Labels have few values, known ahead or bounded by what is configured: never a lease, a holder, a token, a path or a message.
The one that grows is ``template``, and only in gauges of pools that are there now; what is counted over time has none. Every
series whose labels are known ahead is there from the start, with 0: what appears with its first 1 is no increase to
Prometheus.

Gauges of pools and servers are facts of the installation that every replica reports alike: aggregate them with ``max by``,
everything else with ``sum by``. The documentation lists them by their help texts.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Iterable, Sequence
from time import perf_counter
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    ProcessCollector,
    generate_latest,
)

from freshdb_service import __version__
from freshdb_service.lifecycle import LEASE_LIVE, Isolation, LeaseState
from freshdb_service.observability.instrumentation import Visiting, unseen
from freshdb_service.observability.metrics.facts import Gauges, PoolGauges, ServerGauges
from freshdb_service.observability.metrics.measured import LivenessMetrics, MeasuredVisits

_QUICK: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_VISIT: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_LATE: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_LEFT: Final = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_LAG: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_LAG_SECONDS: Final = 0.25
_IN_TIME: Final = 2 / 3
"""A client renews when a third of the TTL is over (``freshdb.heartbeat``)."""

RESET_PATHS: Final = ("nothing", "sequences", "delete", "truncate", "reload", "rebuild")
CONTROL_PLANE: Final = "control plane"
"""What it is called beside managed servers; no server's name has a blank in it."""


class Metrics:
    """The counters, gauges and histograms of one replica; ``reasons`` are all that there are to rebuild."""

    def __init__(self, reasons: Iterable[str] = ()) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        Info("freshdb_build", "What runs here.", registry=registry).info(
            {"version": __version__, "python": platform.python_version()}
        )
        self._granted = Counter(
            "freshdb_leases_granted_total", "Leases granted.", ["isolation"], registry=registry
        )
        self._ended = Counter(
            "freshdb_leases_ended_total",
            "Leases that ended, by how: released, expired (lost: no heartbeat came in time) or revoked.",
            ["how"],
            registry=registry,
        )
        self._acquire_wait = Histogram(
            "freshdb_acquire_wait_seconds",
            "From the request to the grant.",
            ["isolation"],
            buckets=_QUICK,
            registry=registry,
        )
        self.renew = Histogram(
            "freshdb_renew_seconds",
            "From the arrival of a heartbeat to its answer.",
            buckets=_QUICK,
            registry=registry,
        )
        self._lateness = Histogram(
            "freshdb_heartbeat_lateness_seconds",
            "How much later a heartbeat came than a third of the TTL after the one before; 0 for one in time.",
            buckets=_LATE,
            registry=registry,
        )
        self._left = Histogram(
            "freshdb_heartbeat_ttl_left_ratio",
            "How much of the TTL was left when a heartbeat came: about 0.67 for one in time, 0 where the lease is lost.",
            buckets=_LEFT,
            registry=registry,
        )
        self.refusals = Counter(
            "freshdb_refusals_total", "Requests that ended with an error.", ["code"], registry=registry
        )
        self.responses = Counter(
            "freshdb_responses_total",
            "Answers, by method and route, and by status.",
            ["route", "status"],
            registry=registry,
        )
        self.requests_in_progress = Gauge(
            "freshdb_requests_in_progress",
            "Requests in progress, those that wait for a database included.",
            registry=registry,
        )
        self._reset = Histogram(
            "freshdb_reset_seconds",
            "From claiming a dirty database to its being ready.",
            ["path", "isolation"],
            buckets=_QUICK,
            registry=registry,
        )
        self.rebuilds = Counter(
            "freshdb_rebuilds_total",
            "Used databases that were made anew, because cleaning was not proved to be enough, by the kind of reason.",
            ["reason", "isolation"],
            registry=registry,
        )
        self.audits = Counter(
            "freshdb_audits_total",
            "Cleaned databases that were compared in full with their template: the same, or different.",
            ["result", "isolation"],
            registry=registry,
        )
        self.provision = Histogram(
            "freshdb_provision_seconds",
            "Making a new database.",
            ["isolation"],
            buckets=_QUICK,
            registry=registry,
        )
        self.failures = Counter(
            "freshdb_failures_total",
            "Work on a database that failed: provision, reset or drop.",
            ["work"],
            registry=registry,
        )
        self.loop_errors = Counter(
            "freshdb_loop_errors_total", "Rounds of a loop that failed.", ["loop"], registry=registry
        )
        self.loop_success = Gauge(
            "freshdb_loop_last_success_timestamp_seconds",
            "When a round of a loop last ended well; one of the janitor or the replenisher lasts as long as there is work.",
            ["loop"],
            registry=registry,
        )
        self._redis = Histogram(
            "freshdb_redis_seconds",
            "Calls to Redis, by script, waiting for a connection included.",
            ["script"],
            buckets=_VISIT,
            registry=registry,
        )
        self._redis_errors = Counter(
            "freshdb_redis_errors_total",
            "Calls to Redis that failed: it is away, or refuses.",
            registry=registry,
        )
        self._control_plane = Histogram(
            "freshdb_control_plane_seconds",
            "Visits to the control plane's database, waiting for a connection included: a statement, a transaction, or what "
            "it is for (grant, end, claim, ready, ...).",
            ["visit"],
            buckets=_VISIT,
            registry=registry,
        )
        self._control_plane_errors = Counter(
            "freshdb_control_plane_errors_total",
            "Visits to the control plane's database that failed: it is away, or refuses.",
            registry=registry,
        )
        self._server = Histogram(
            "freshdb_server_seconds",
            "Visits to a managed server, by kind: maintenance (making and dropping included), inside a database, or a "
            "session (resets).",
            ["server", "visit"],
            buckets=_QUICK,
            registry=registry,
        )
        self._server_errors = Counter(
            "freshdb_server_errors_total",
            "Visits to a managed server that failed: it is away.",
            ["server"],
            registry=registry,
        )
        self._answer = Histogram(
            "freshdb_postgres_answer_seconds",
            "Signs of life (SELECT 1 in a session of its own) of the managed servers and the control plane.",
            ["server"],
            buckets=_VISIT,
            registry=registry,
        )
        self._up = Gauge(
            "freshdb_postgres_up",
            "1 for a managed server (or the control plane) that gives signs of life; 0 for one that says nothing, or lets "
            "nobody in.",
            ["server"],
            registry=registry,
        )
        self._lag = Histogram(
            "freshdb_event_loop_lag_seconds",
            "How much later than it should the event loop came round, four times a second.",
            buckets=_LAG,
            registry=registry,
        )
        self._facts = Gauges()
        registry.register(self._facts)
        # What is counted for every lease is looked up here: `labels()` costs as much as counting does.
        self._of_acquire: dict[Isolation, tuple[Counter, Histogram]] = {}
        self._of_end: dict[LeaseState, Counter] = {}
        self._of_reset: dict[tuple[str, Isolation], Histogram] = {}
        self._begin_with_zero(reasons)

    def _begin_with_zero(self, reasons: Iterable[str]) -> None:
        for isolation in Isolation:
            self._of_acquire[isolation] = (
                self._granted.labels(isolation),
                self._acquire_wait.labels(isolation),
            )
            self.provision.labels(isolation)
            for result in ("same", "different"):
                self.audits.labels(result, isolation)
            for reason in reasons:
                self.rebuilds.labels(reason, isolation)
            for path in RESET_PATHS:
                self._of_reset[path, isolation] = self._reset.labels(path, isolation)
        for how in set(LeaseState) - LEASE_LIVE:
            self._of_end[how] = self._ended.labels(how)
        for work in ("provision", "reset", "drop"):
            self.failures.labels(work)
        for code in (
            "internal_error",
            "pool_exhausted",
            "backend_unavailable",
            "quota_exceeded",
            "unauthorized",
        ):
            self.refusals.labels(code)

    def granted(self, isolation: Isolation, waited_seconds: float) -> None:
        """Note a lease that was granted."""
        count, wait = self._of_acquire[isolation]
        count.inc()
        wait.observe(waited_seconds)

    def ended(self, how: LeaseState) -> None:
        """Note a lease that ended."""
        self._of_end[how].inc()

    def cleaned(self, path: str, isolation: Isolation, seconds: float) -> None:
        """Note a reset."""
        self._of_reset[path, isolation].observe(seconds)

    def heartbeat(self, *, ttl_seconds: float, left_seconds: float) -> None:
        """Note a heartbeat that was granted ``ttl_seconds`` when ``left_seconds`` were left of the TTL before."""
        self._lateness.observe(max(0.0, _IN_TIME * ttl_seconds - left_seconds))
        self._left.observe(min(1.0, left_seconds / ttl_seconds) if ttl_seconds > 0 else 1.0)

    def show(self, pools: Sequence[PoolGauges], servers: Sequence[ServerGauges]) -> None:
        """Have these be the pools and servers that there are; those that were shown before are forgotten."""
        self._facts.show(pools, servers)

    def visits_to_redis(self, traced: Visiting = unseen) -> Visiting:
        """What surrounds calls to Redis."""
        return MeasuredVisits(self._redis, self._redis_errors, traced)

    def visits_to_control_plane(self, traced: Visiting = unseen) -> Visiting:
        """What surrounds visits to the control plane's database."""
        return MeasuredVisits(self._control_plane, self._control_plane_errors, traced)

    def visits_to_server(self, name: str, traced: Visiting = unseen) -> Visiting:
        """What surrounds visits to a managed server."""
        return MeasuredVisits(self._server, self._server_errors.labels(name), traced, name)

    def signs_of(self, server: str) -> LivenessMetrics:
        """What is told of the signs of life of a server (or ``CONTROL_PLANE``)."""
        return LivenessMetrics(self._answer.labels(server), self._up.labels(server))

    async def feel_lag(self) -> None:
        """Measure how late the event loop is, for as long as the process lives."""
        while True:
            began = perf_counter()
            await asyncio.sleep(_LAG_SECONDS)
            self._lag.observe(max(0.0, perf_counter() - began - _LAG_SECONDS))

    def text(self) -> bytes:
        """Everything, in Prometheus's text format."""
        return generate_latest(self.registry)
