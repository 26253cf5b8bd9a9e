"""One soak: holders at work, random faults, and a check of the whole history."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

import httpx
import psycopg
import redis

from freshdb import AsyncClient
from tests import plain_http
from tests.soak.checker import DEAD_SECONDS, violations
from tests.soak.faults import Faults
from tests.soak.history import History, Kind
from tests.soak.holders import TEMPLATE_SQL, Holder, Isolation, Pool
from tests.soak.installation import Installation
from tests.soak.measures import Measures, growth

HOLDERS: Final = 24
CALM_HOLDERS: Final = 4
"""Few enough to leave the processors idle time, so that clients wait for freshdb only."""
_ISOLATIONS: Final[tuple[Isolation, ...]] = ("database", "schema")
_POOLS: Final = [Pool(name, isolation) for name in ("red", "blue") for isolation in _ISOLATIONS]
_PERMANENT_KEYS: Final = {"events", "epoch"}


@dataclass(slots=True)
class Report:
    """Result of a soak."""

    seed: int
    seconds: float
    wrong: list[str]
    counts: dict[str, int]
    outcomes: dict[str, int]
    faults: dict[str, int]
    waits_seconds: dict[str, float]
    kill_cost_seconds: float
    """The longest wait for a lease among those during which a replica was killed and no other fault happened."""
    calm: bool = False
    """Kills are the only faults."""
    holders: int = HOLDERS
    windows: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Resource use after the warm-up, and at the end."""
    left: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [
            f"seed {self.seed}, {self.seconds:.0f} s{', kills only' if self.calm else ''}",
            f"operations: {self.counts}",
            f"outcomes: {self.outcomes}",
            f"faults: {self.faults}",
            f"acquire: {', '.join(f'{name} {value * 1e3:.0f} ms' for name, value in self.waits_seconds.items())}",
            f"longest wait while a replica was killed: {self.kill_cost_seconds * 1e3:.0f} ms",
            *(f"{name}: {early:.0f}, at the end {late:.0f}" for name, (early, late) in self.windows.items()),
            f"left over: {self.left or 'nothing'}",
            f"tracebacks in the replicas' logs: {len(self.unexpected)}",
            *self.unexpected[:60],
            f"findings: {len(self.wrong)}",
            *self.wrong[:20],
        ]
        return "\n".join(parts)


async def soak(
    seconds: float,
    seed: int,
    *,
    holders: int = HOLDERS,
    calm: bool = False,
    every_seconds: float = 2.0,
    log_progress: Callable[[str], None] = print,
) -> tuple[Report, History]:
    """Run a soak and check it. ``calm`` measures the cost of a killed replica: only kills, best with few holders."""
    history = History()
    began = monotonic()
    async with Installation.opened() as installation:
        async with AsyncClient(installation.urls) as client:
            for name in ("red", "blue"):
                await client.ensure_sql(name, [TEMPLATE_SQL])
        # The first request for a pool creates it. That is done before the history begins to count.
        for url in installation.urls:
            async with AsyncClient(url) as client:
                for pool in _POOLS:
                    async with client.lease(pool.template, isolation=pool.isolation, wait_seconds=60):
                        pass
        stopping = asyncio.Event()
        all_holders = [
            Holder(number, installation.urls, history, random.Random(f"{seed} {number}"), _POOLS, stopping)  # noqa: S311
            for number in range(holders)
        ]
        holder_tasks = [asyncio.create_task(holder.run()) for holder in all_holders]
        while not all(holder.released for holder in all_holders):
            await asyncio.sleep(0.05)
        began = monotonic()
        measures = Measures()
        measuring = asyncio.create_task(measures.take(installation.measure))
        faults = Faults(installation, history, random.Random(seed), log_progress, only_kills=calm)  # noqa: S311
        try:
            await faults.run(began + seconds, every_seconds=every_seconds)
        finally:
            stopping.set()
            measuring.cancel()
        await asyncio.gather(*holder_tasks)
        left = await _wait_for_cleanup(installation)
        installation.collect_tracebacks()
    counts = Counter(op.kind.value for op in history.ops if op.ok)
    return (
        Report(
            seed=seed,
            seconds=monotonic() - began,
            wrong=[*violations(history), *growth(measures.windows())],
            counts=dict(counts),
            outcomes=dict(Counter(f"{op.kind} {op.outcome}" for op in history.ops if not op.ok)),
            faults=dict(Counter(fault.description for fault in history.faults)),
            waits_seconds=_percentiles(history),
            kill_cost_seconds=_kill_cost(history),
            calm=calm,
            holders=holders,
            windows=measures.windows(),
            left=left,
            unexpected=installation.unexpected,
        ),
        history,
    )


def _percentiles(history: History) -> dict[str, float]:
    waits = sorted(op.ended - op.began for op in history.ops if op.kind is Kind.ACQUIRE and op.ok)
    last = len(waits) - 1
    return {f"p{share}": waits[last * share // 100] for share in (50, 95, 99, 100)} if waits else {}


def _kill_cost(history: History) -> float:
    longest = 0.0
    for op in history.ops:
        if op.kind is Kind.ACQUIRE and op.ok:
            concurrent_faults = [
                fault for fault in history.faults if fault.began <= op.ended and op.began <= fault.ended
            ]
            if len(concurrent_faults) == 1 and concurrent_faults[0].description.endswith("killed"):
                longest = max(longest, op.ended - op.began)
    return longest


async def _wait_for_cleanup(installation: Installation) -> list[str]:
    """Return all work in progress and all leftovers that remain ``DEAD_SECONDS`` after the last fault."""
    until = monotonic() + DEAD_SECONDS
    url = installation.urls[0]
    async with httpx.AsyncClient(verify=plain_http.NO_CERTIFICATES, base_url=url, timeout=30) as client:
        while work_in_progress := await _work_in_progress(client):
            if monotonic() > until:
                return work_in_progress
            await asyncio.sleep(0.2)
        for template in (await client.get("/v1/templates")).json()["items"]:
            (
                await client.delete(f"/v1/templates/{template['id']}", params={"force": "true"})
            ).raise_for_status()
    until = monotonic() + DEAD_SECONDS
    while left := await asyncio.to_thread(_leftovers, installation):
        if monotonic() > until:
            return left
        await asyncio.sleep(0.2)
    return []


async def _work_in_progress(client: httpx.AsyncClient) -> list[str]:
    pools = (await client.get("/v1/pools")).json()["items"]
    return [
        f"{pool['template']} {pool['isolation']}: {number} {state}"
        for pool in pools
        for state, number in pool["databases"].items()
        if number and state != "ready"
    ]


def _leftovers(installation: Installation) -> list[str]:
    prefix = installation.replicas[0].prefix
    found: list[str] = []
    for dsn in installation.dsns:
        with psycopg.connect(dsn) as connection:
            rows = connection.execute(
                "SELECT datname FROM pg_database WHERE starts_with(datname, %s) "
                "UNION ALL SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s)",
                (prefix, prefix),
            ).fetchall()
        found += [str(name) for (name,) in rows]
    with redis.Redis.from_url(installation.redis_url, decode_responses=True) as keys:
        # Keys that expire by themselves, such as places in a queue, are not leftovers.
        found += [
            key
            for key in keys.scan_iter("*")
            if key.rpartition(":")[2] not in _PERMANENT_KEYS and keys.ttl(key) == -1
        ]
    return found
