"""``docs/load.md``: the load, the results, and the goals."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

from tests.load.outcome import Goals, Load, Outcome, Results

PAGE = Path(__file__).parents[2] / "docs" / "load.md"
_PACKAGES = ("freshdb-service", "fastapi", "uvicorn", "uvloop", "asyncpg", "redis")

TEXT = """# Load

`make load SECONDS=300` wrote this page: {date}, {seconds:.0f} s on {machine}.
The service with a PostgreSQL and a Redis of its own, its data in memory, and the callers (two processes) share those
processors.

- {clients:,} clients in one queue, of a pool of {databases} databases: each waits for a lease, holds it for
  {hold:g} s on average, releases it, and joins the queue again.
- All of them arrive at the same instant, at the beginning.
- {excess} more clients send requests all the time while the queue is full (`max_waiters={max_waiters}`).
- {renewed_leases} leases in the pools of {templates} other templates are renewed, {per_second:.0f} heartbeats a second in
  all, and two clients of each of these templates acquire and release.
- Settings that are not the default: {settings}.

| | n | per second | p50, ms | p99, ms | p99.9, ms | longest, ms | goal |
|---|---:|---:|---:|---:|---:|---:|---|
{rows}

Clients time each heartbeat from the instant at which it was *due*: a heartbeat that is sent late, because earlier ones
were slow, counts as slow. By the service's own clock, from the arrival of a heartbeat to its answer:
**{server_share:.2%} within 20 ms** ({server}).

Refused: {refused}. Without a `Retry-After`: {without}. Heartbeats that were refused or lost: {lost}.

Processor seconds per second: service {service:.2f}, PostgreSQL {postgres:.2f}, Redis {redis:.2f}.
"""


def page(outcome: Outcome, load: Load) -> tuple[str, bool]:
    """Return the page, and ``True`` if every goal was met."""
    goals = Goals.of(outcome)
    queue, heartbeats = outcome.queue, outcome.heartbeats
    rows = [
        _row(
            "heartbeat, from when it was due", heartbeats.renewals, outcome, f"p99 ≤ 20: {_met(goals.renew)}"
        ),
        _row("heartbeat, from when it was sent", heartbeats.renewals_sent, outcome, ""),
        _row(
            "refusal, when the queue is full",
            queue.refusals,
            outcome,
            f"longest ≤ 5,000: {_met(goals.refusal)}",
        ),
        _row("wait in the queue", queue.waits, outcome, ""),
        _row("wait in the queue that timed out", queue.timed_out, outcome, ""),
        _row("release, into the queue", queue.releases, outcome, ""),
        _row("acquire, in the other pools", heartbeats.waits, outcome, ""),
        _row("release, in the other pools", heartbeats.releases, outcome, ""),
    ]
    bounds = sorted(bound for bound in outcome.server_renewals if bound <= 0.1)
    text = TEXT.format(
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        seconds=outcome.seconds,
        machine=_machine(),
        clients=load.clients,
        databases=load.databases,
        hold=load.hold_seconds,
        excess=load.excess,
        max_waiters=load.max_waiters,
        renewed_leases=load.templates * load.renewed_leases,
        templates=load.templates,
        per_second=load.per_second,
        settings=", ".join(f"`{name}={value}`" for name, value in load.settings.items()),
        rows="\n".join(rows),
        server_share=goals.server_share,
        server=", ".join(
            f"{outcome.server_renewals[bound] / outcome.served_renewals:.1%} within {bound * 1e3:g} ms"
            for bound in bounds
        ),
        refused=", ".join(f"{number:,} {name}" for name, number in sorted(outcome.outcomes.items()))
        or "none",
        without=queue.without_retry_after + heartbeats.without_retry_after,
        lost=goals.lost_heartbeats,
        service=outcome.cpu.service / outcome.seconds,
        postgres=outcome.cpu.postgres / outcome.seconds,
        redis=outcome.cpu.redis / outcome.seconds,
    )
    return text, goals.met


def _row(name: str, seconds: list[float], outcome: Outcome, goal: str) -> str:
    if not seconds:
        return f"| {name} | 0 | | | | | | {goal} |"
    figures = [Results.percentile(seconds, share) * 1e3 for share in (0.5, 0.99, 0.999, 1.0)]
    cells = " | ".join(f"{one:,.1f}" for one in figures)
    return f"| {name} | {len(seconds):,} | {len(seconds) / outcome.seconds:,.0f} | {cells} | {goal} |"


def _met(met: bool) -> str:  # noqa: FBT001 - a word for it
    return "reached" if met else "**missed**"


def _machine() -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    memory = round(psutil.virtual_memory().total / 2**30)
    return (
        f"{os.cpu_count()} cores, {memory} GiB, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}, {versions}"
    )
