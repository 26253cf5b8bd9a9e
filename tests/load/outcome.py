"""Results of a load's clients, and the goals."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tests.benchmarks.running import Cpu

RENEW_SECONDS = 0.020
REFUSAL_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Load:
    """Size of the load."""

    hold_seconds: float
    databases: int = 50
    clients: int = 1_000
    excess: int = 100
    templates: int = 20
    renewed_leases: int = 5
    """Leases of each of these templates that are renewed."""
    clients_per_template: int = 2
    per_second: float = 500

    @property
    def max_waiters(self) -> int:
        """Maximum length of the queue, without the excess clients."""
        return self.clients - self.databases

    @property
    def settings(self) -> dict[str, str | float]:
        """Settings of the service: the length of the queue, and a session for each database that is leased repeatedly."""
        return {"max_waiters": self.max_waiters, "idle_sessions": 128}


@dataclass(slots=True)
class Results:
    """Results of the clients of one role. Durations are in seconds."""

    granted: int = 0
    waits: list[float] = field(default_factory=list)
    releases: list[float] = field(default_factory=list)
    renewals: list[float] = field(default_factory=list)
    renewals_sent: list[float] = field(default_factory=list)
    """Times of the same heartbeats from the instant at which they were sent."""
    refusals: list[float] = field(default_factory=list)
    timed_out: list[float] = field(default_factory=list)
    """Waits that ended because the client's own limit had passed."""
    outcomes: dict[str, int] = field(default_factory=dict)
    without_retry_after: int = 0

    def count_failure(self, outcome: str) -> None:
        """Count a response that reports a failure."""
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    @staticmethod
    def percentile(seconds: list[float], share: float) -> float:
        """Return the maximum of this share of the shortest durations."""
        ordered = sorted(seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Results of both sides."""

    seconds: float
    queue: Results
    heartbeats: Results
    cpu: Cpu
    server_renewals: dict[float, float]
    """Number of heartbeats that the service answered within each number of seconds, by its own clock."""

    @property
    def outcomes(self) -> Counter[str]:
        """Number of failures of both roles, by call, status and code."""
        return Counter(self.queue.outcomes) + Counter(self.heartbeats.outcomes)

    @property
    def served_renewals(self) -> float:
        """Number of heartbeats that the service answered."""
        return max(1.0, *self.server_renewals.values())


@dataclass(frozen=True, slots=True)
class Goals:
    """The goals, each with its result."""

    renew: bool
    refusal: bool
    retry_after: bool
    lost_heartbeats: int
    server_share: float

    @classmethod
    def of(cls, outcome: Outcome) -> Goals:
        """Compare an outcome with the goals."""
        queue, heartbeats = outcome.queue, outcome.heartbeats
        return cls(
            renew=bool(heartbeats.renewals)
            and Results.percentile(heartbeats.renewals, 0.99) <= RENEW_SECONDS,
            refusal=max(queue.refusals, default=0.0) <= REFUSAL_SECONDS,
            retry_after=queue.without_retry_after + heartbeats.without_retry_after == 0,
            lost_heartbeats=sum(
                number for name, number in outcome.outcomes.items() if name.startswith("renew")
            ),
            server_share=outcome.server_renewals.get(RENEW_SECONDS, 0.0) / outcome.served_renewals,
        )

    @property
    def met(self) -> bool:
        """``True`` if all goals were met."""
        return self.renew and self.refusal and self.retry_after and not self.lost_heartbeats
