"""What the service counts: one registry per replica, read at ``/metrics``. No lease ids or holders as labels."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_QUICK = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """The counters, gauges and histograms of one replica."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.leases_granted = Counter(
            "freshdb_leases_granted_total", "Leases granted.", ["isolation"], registry=self.registry
        )
        self.leases_ended = Counter(
            "freshdb_leases_ended_total", "Leases that ended.", ["how"], registry=self.registry
        )
        self.acquire_wait = Histogram(
            "freshdb_acquire_wait_seconds",
            "From the request to the grant.",
            ["isolation"],
            buckets=_QUICK,
            registry=self.registry,
        )
        self.renew = Histogram(
            "freshdb_renew_seconds",
            "From the arrival of a heartbeat to its answer.",
            buckets=_QUICK,
            registry=self.registry,
        )
        self.refusals = Counter(
            "freshdb_refusals_total", "Requests that ended with an error.", ["code"], registry=self.registry
        )
        self.reset = Histogram(
            "freshdb_reset_seconds",
            "From claiming a dirty database to its being ready.",
            ["path", "isolation"],
            buckets=_QUICK,
            registry=self.registry,
        )
        self.audits = Counter(
            "freshdb_audits_total",
            "Cleaned databases that were compared in full with their template: the same, or different.",
            ["result", "isolation"],
            registry=self.registry,
        )
        self.provision = Histogram(
            "freshdb_provision_seconds",
            "Making a new database.",
            ["isolation"],
            buckets=_QUICK,
            registry=self.registry,
        )
        self.failures = Counter(
            "freshdb_failures_total", "Work on a database that failed.", ["work"], registry=self.registry
        )
        self.loop_errors = Counter(
            "freshdb_loop_errors_total", "Rounds of a loop that failed.", ["loop"], registry=self.registry
        )
        self.databases = Gauge(
            "freshdb_databases",
            "Databases by pool and state, as of the last round of the replenisher.",
            ["template", "isolation", "state"],
            registry=self.registry,
        )
        self.waiters = Gauge(
            "freshdb_waiters",
            "Callers that wait, by pool.",
            ["template", "isolation"],
            registry=self.registry,
        )
        self.ready_target = Gauge(
            "freshdb_ready_target",
            "How many databases a pool means to have ready, by pool.",
            ["template", "isolation"],
            registry=self.registry,
        )

    def text(self) -> bytes:
        """Everything, in Prometheus's text format."""
        return generate_latest(self.registry)
