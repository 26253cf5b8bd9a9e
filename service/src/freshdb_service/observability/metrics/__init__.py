"""Prometheus metrics: one registry per replica, exposed at ``/metrics``.

Labels have few values, which are fixed or limited by the configuration. They are never a lease, a holder, a token, a path or
a message. The label ``template`` may grow, but only gauges of existing pools have it, no counters or histograms. All series
with fixed labels start at 0, because Prometheus sees no increase in a series that appears with its first 1.

All replicas report the same gauges of pools and servers. Aggregate these with ``max by``, and all others with ``sum by``.
The documentation lists the metrics by their help texts.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Iterable, Sequence
from functools import partial
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
from freshdb_service.observability.instrumentation import Instrument, no_instrument
from freshdb_service.observability.metrics.calls import LivenessMetrics, MeasuredCalls
from freshdb_service.observability.metrics.gauges import Gauges, PoolGauges, ServerGauges

_QUICK: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_CALL: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_LATE: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_LEFT: Final = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_LAG: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_LAG_SECONDS: Final = 0.25
_IN_TIME: Final = 2 / 3
"""Share of the TTL that is left at a timely heartbeat. A client renews after a third of it (``freshdb.heartbeat``)."""

RESET_PATHS: Final = ("nothing", "sequences", "statistics", "delete", "truncate", "reload", "rebuild")
CONTROL_PLANE: Final = "control plane"
"""Value of the label ``server`` for the control plane. No managed server can have it, because names have no blanks."""


class Metrics:
    """The counters, gauges and histograms of one replica. ``reasons`` are all kinds of reasons for a rebuild."""

    def __init__(self, reasons: Iterable[str] = ()) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        Info("freshdb_build", "Version of freshdb and Python.", registry=registry).info(
            {"version": __version__, "python": platform.python_version()}
        )
        counter = partial(Counter, registry=registry)
        gauge = partial(Gauge, registry=registry)
        histogram = partial(Histogram, registry=registry)
        self._granted = counter("freshdb_leases_granted_total", "Leases granted.", ["isolation"])
        self._ended = counter(
            "freshdb_leases_ended_total",
            "Leases that ended: released, expired (lost, because no heartbeat arrived in time) or revoked.",
            ["how"],
        )
        self._acquire_wait = histogram(
            "freshdb_acquire_wait_seconds",
            "Time from the request to the grant.",
            ["isolation"],
            buckets=_QUICK,
        )
        self.renew = histogram(
            "freshdb_renew_seconds",
            "Time from the arrival of a heartbeat to its response.",
            buckets=_QUICK,
        )
        self._lateness = histogram(
            "freshdb_heartbeat_lateness_seconds",
            "Delay of a heartbeat. One is due a third of the TTL after the previous one; 0 is in time.",
            buckets=_LATE,
        )
        self._left = histogram(
            "freshdb_heartbeat_ttl_left_ratio",
            "Share of the TTL that was left when a heartbeat arrived: about 0.67 if in time, 0 if the lease was lost.",
            buckets=_LEFT,
        )
        self.refusals = counter("freshdb_refusals_total", "Requests that ended with an error.", ["code"])
        self.responses = counter(
            "freshdb_responses_total",
            "Responses by route (method and path) and status.",
            ["route", "status"],
        )
        self.requests_in_progress = gauge(
            "freshdb_requests_in_progress",
            "Requests in progress, including those that wait for a database.",
        )
        self._reset = histogram(
            "freshdb_reset_seconds",
            "Time from the claim of a dirty database until it is ready.",
            ["path", "isolation"],
            buckets=_QUICK,
        )
        self.rebuilds = counter(
            "freshdb_rebuilds_total",
            "Used databases that were rebuilt instead of reset in place, by kind of reason.",
            ["reason", "isolation"],
        )
        self.audits = counter(
            "freshdb_audits_total",
            "Reset databases that were compared in full with their template, by result: same or different.",
            ["result", "isolation"],
        )
        self.provision = histogram(
            "freshdb_provision_seconds",
            "Time to create a new database.",
            ["isolation"],
            buckets=_QUICK,
        )
        self.failures = counter(
            "freshdb_failures_total",
            "Failed work on databases: provision, reset or drop.",
            ["work"],
        )
        self.loop_errors = counter("freshdb_loop_errors_total", "Failed runs of a loop.", ["loop"])
        self.loop_success = gauge(
            "freshdb_loop_last_success_timestamp_seconds",
            "Time of the last successful run of a loop. A run of the janitor or replenisher lasts as long as there is work.",
            ["loop"],
        )
        self._redis = histogram(
            "freshdb_redis_seconds",
            "Time of calls to Redis by script, including the wait for a connection.",
            ["script"],
            buckets=_CALL,
        )
        self._redis_errors = counter(
            "freshdb_redis_errors_total",
            "Failed calls to Redis: it is unavailable or refuses them.",
        )
        self._control_plane = histogram(
            "freshdb_control_plane_seconds",
            "Time of calls to the control plane's database, including the wait for a connection, by kind: statement, "
            "transaction, or operation (grant, end, claim, ready, ...).",
            ["visit"],
            buckets=_CALL,
        )
        self._control_plane_errors = counter(
            "freshdb_control_plane_errors_total",
            "Failed calls to the control plane's database: it is unavailable or refuses them.",
        )
        self._server = histogram(
            "freshdb_server_seconds",
            "Time of calls to a managed server by kind: maintenance (including create and drop), inside a database, or "
            "session (resets).",
            ["server", "visit"],
            buckets=_QUICK,
        )
        self._server_errors = counter(
            "freshdb_server_errors_total",
            "Failed calls to a managed server: it is unavailable.",
            ["server"],
        )
        self._answer = histogram(
            "freshdb_postgres_answer_seconds",
            "Response time of liveness probes (SELECT 1 in a dedicated session) of managed servers and the control plane.",
            ["server"],
            buckets=_CALL,
        )
        self._up = gauge(
            "freshdb_postgres_up",
            "1 if a managed server (or the control plane) answers liveness probes, 0 if it does not or refuses logins.",
            ["server"],
        )
        self._lag = histogram(
            "freshdb_event_loop_lag_seconds",
            "Delay of the event loop, measured four times per second.",
            buckets=_LAG,
        )
        self._facts = Gauges()
        registry.register(self._facts)
        # Children that each lease uses are cached, because `labels()` costs as much as an increment.
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
        """Count a granted lease."""
        count, wait = self._of_acquire[isolation]
        count.inc()
        wait.observe(waited_seconds)

    def ended(self, how: LeaseState) -> None:
        """Count an ended lease."""
        self._of_end[how].inc()

    def cleaned(self, path: str, isolation: Isolation, seconds: float) -> None:
        """Record a reset."""
        self._of_reset[path, isolation].observe(seconds)

    def heartbeat(self, *, ttl_seconds: float, left_seconds: float) -> None:
        """Record a heartbeat that was granted ``ttl_seconds`` when ``left_seconds`` of the previous TTL were left."""
        self._lateness.observe(max(0.0, _IN_TIME * ttl_seconds - left_seconds))
        self._left.observe(min(1.0, left_seconds / ttl_seconds) if ttl_seconds > 0 else 1.0)

    def show(self, pools: Sequence[PoolGauges], servers: Sequence[ServerGauges]) -> None:
        """Replace the gauges of pools and servers."""
        self._facts.show(pools, servers)

    def redis_calls(self, traced: Instrument = no_instrument) -> Instrument:
        """Create the instrumentation of calls to Redis."""
        return MeasuredCalls(self._redis, self._redis_errors, traced)

    def control_plane_calls(self, traced: Instrument = no_instrument) -> Instrument:
        """Create the instrumentation of calls to the control plane's database."""
        return MeasuredCalls(self._control_plane, self._control_plane_errors, traced)

    def server_calls(self, name: str, traced: Instrument = no_instrument) -> Instrument:
        """Create the instrumentation of calls to a managed server."""
        return MeasuredCalls(self._server, self._server_errors.labels(name), traced, name)

    def liveness_of(self, server: str) -> LivenessMetrics:
        """Create the recorder of liveness probes of a server (or ``CONTROL_PLANE``)."""
        return LivenessMetrics(self._answer.labels(server), self._up.labels(server))

    async def measure_lag(self) -> None:
        """Measure the delay of the event loop until cancelled."""
        while True:
            began = perf_counter()
            await asyncio.sleep(_LAG_SECONDS)
            self._lag.observe(max(0.0, perf_counter() - began - _LAG_SECONDS))

    def text(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self.registry)
