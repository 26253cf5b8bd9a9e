"""Section ``pool_size``: acquire by number of databases, memory, and fairness by number of waiters."""

from __future__ import annotations

import asyncio
import json
import resource
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import httpx
import psutil
import uvloop

from tests.benchmarks.client_loop import Http
from tests.benchmarks.results import Findings, Run, Table, milliseconds, percentile, ratio
from tests.benchmarks.running import (
    PlainClient,
    Served,
    acquire,
    data_directory,
    open_pool,
    register,
    release,
    resize,
    schema,
    serving,
    wait_until_ready,
)

TEMPLATE = "pool"
TABLES = 3
GOAL = 1.5
_MIN_FREE_BYTES = 2 * 2**30
"""Filling a pool stops when less memory than this is free. Databases in memory need about 8 MiB each."""
_IDLE_TIMEOUT_SECONDS = 300.0
_WAIT_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Effort:
    """Amount of measurement."""

    databases: tuple[int, ...] = (10, 100, 2_000)
    schemas: tuple[int, ...] = (10, 1_000, 10_000)
    fill_seconds: float = 600.0
    rounds: int = 7
    acquires: int = 50
    at_once: int = 5
    waiters: tuple[int, ...] = (1, 10, 100, 1_000)
    waiter_rounds: int = 2


QUICK = Effort(
    databases=(10, 20),
    schemas=(10, 20),
    fill_seconds=30,
    rounds=1,
    acquires=10,
    waiters=(1, 30),
    waiter_rounds=1,
)


@dataclass(slots=True)
class MeasuredPool:
    """A service with a pool of a given size, and its measurements."""

    isolation: str
    wanted: int
    served: Served
    client: httpx.Client
    pool_id: str
    size: int = 0
    fill_seconds: float = 0.0
    stopped_because: str = ""
    memory_bytes: int = 0
    rounds: list[list[float]] = field(default_factory=list)

    @contextmanager
    def resumed(self) -> Iterator[None]:
        """Resume the service for the length of the block."""
        self.served.resume()
        try:
            yield
        finally:
            self.served.pause()

    def fill(self, seconds: float) -> None:
        """Fill the pool to the requested size, or as far as possible in this time."""
        began = time.monotonic()
        resize(self.client, self.pool_id, self.wanted)
        while True:
            ready = wait_until_ready(self.client, self.pool_id, self.wanted, at_most_seconds=1.0)
            self.fill_seconds = time.monotonic() - began
            if psutil.virtual_memory().available < _MIN_FREE_BYTES:
                self.stopped_because = "the memory was used up"
            elif self.fill_seconds > seconds:
                self.stopped_because = "the time limit was reached"
            if ready >= self.wanted or self.stopped_because:
                break
        self.size = max(1, min(ready, self.wanted))
        resize(self.client, self.pool_id, self.size)
        self.wait_until_idle()

    def wait_until_idle(self) -> None:
        """Wait until all databases are ready and no work is in progress."""
        until = time.monotonic() + _IDLE_TIMEOUT_SECONDS
        while True:
            held = self.client.get(f"/v1/pools/{self.pool_id}").json()["databases"]
            if held.get("ready", 0) >= self.size and sum(held.values()) == held["ready"]:
                return
            if time.monotonic() > until:
                raise RuntimeError(f"the pool did not become idle: {held}")
            time.sleep(0.05)

    def round(self, effort: Effort) -> None:
        """Acquire a few leases at a time, while the service has no other work."""
        taken: list[float] = []
        caller = PlainClient(self.served.url, TEMPLATE, self.isolation)
        while len(taken) < effort.acquires:
            self.wait_until_idle()
            held = []
            for _ in range(min(effort.at_once, self.size)):
                began = time.perf_counter()
                held.append(caller.acquire())
                taken.append(time.perf_counter() - began)
            for one in held:
                release(self.client, one)
        caller.close()
        self.wait_until_idle()
        self.rounds.append(taken)
        self.memory_bytes = self.served.memory_bytes()


@dataclass(frozen=True, slots=True)
class QueueResults:
    """Measurements of a queue with a given number of waiters."""

    waits: list[float]
    overtaken: int
    """Maximum, over all waiters, of the number of later waiters that were served earlier."""
    errors: int


def measure(run: Run) -> Findings:
    """Measure pools of each size, alternating, one isolation after the other. Then measure waiters on the smallest pool."""
    effort = QUICK if run.quick else Effort()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a socket per waiter, here and in the service
    queue_results: dict[int, list[QueueResults]] = {}
    with ExitStack() as stack:
        schemas = [_measured_pool(run, stack, "schema", size, effort) for size in sorted(effort.schemas)]
        _rounds(run, schemas, effort)
    with ExitStack() as stack:  # only now is enough memory free
        pools = [_measured_pool(run, stack, "database", size, effort) for size in sorted(effort.databases)]
        _rounds(run, pools, effort)
        for number in effort.waiters:
            with pools[0].resumed():
                queue_results[number] = [_waiters(pools[0], number) for _ in range(effort.waiter_rounds)]
            run.log_progress(f"{number} waiters: {sum(one.errors for one in queue_results[number])} errors")
        run.calibrate()
    return _findings(effort, [*pools, *schemas], queue_results)


def _rounds(run: Run, pools: list[MeasuredPool], effort: Effort) -> None:
    for number in range(effort.rounds):
        first = number % len(pools)
        for pool in pools[first:] + pools[:first]:
            with pool.resumed():
                pool.round(effort)
            run.log_progress(
                f"round {number + 1}: {pool.size} ({pool.isolation}): p50 "
                f"{percentile(pool.rounds[-1], 50) * 1e3:.2f} ms"
            )
        run.calibrate()


def _measured_pool(run: Run, stack: ExitStack, isolation: str, size: int, effort: Effort) -> MeasuredPool:
    data: Path = stack.enter_context(data_directory())
    served = stack.enter_context(serving(data, max_databases=100_000, max_disk_bytes=2**50))
    client = stack.enter_context(served.client())
    register(client, TEMPLATE, schema(TABLES))
    pool = MeasuredPool(isolation, size, served, client, open_pool(client, TEMPLATE, isolation))
    pool.fill(effort.fill_seconds)
    run.log_progress(f"{pool.size} of {size} ({isolation}) in {pool.fill_seconds:.0f} s")
    served.pause()
    return pool


def _waiters(pool: MeasuredPool, number: int) -> QueueResults:
    """Let this number of waiters wait for a pool whose databases are all leased, then release the leases."""
    pool.wait_until_idle()
    held = [acquire(pool.client, TEMPLATE, pool.isolation)["id"] for _ in range(pool.size)]
    return uvloop.run(_wait_in_queue(pool, number, held))


async def _wait_in_queue(pool: MeasuredPool, number: int, held: list[str]) -> QueueResults:
    body = json.dumps(
        {"template": TEMPLATE, "isolation": pool.isolation, "wait_seconds": _WAIT_SECONDS}
    ).encode()
    connections = [await Http.to(pool.served.url) for _ in range(number)]
    answered: dict[int, float] = {}
    granted: dict[int, str] = {}
    errors = 0

    async def one(position: int) -> None:
        nonlocal errors
        status, answer = await connections[position].answer()
        answered[position] = time.perf_counter()
        if status != 201:
            errors += 1
            return
        lease = json.loads(answer)
        granted[position] = lease["granted_at"]
        status, _ = await connections[position].ask("DELETE", f"/v1/leases/{lease['id']}")
        errors += status >= 300

    async with (
        httpx.AsyncClient(base_url=pool.served.url, timeout=60) as client,
        asyncio.TaskGroup() as group,
    ):
        for position in range(number):
            connections[position].send("POST", "/v1/leases", body)
            group.create_task(one(position))
            # Send the next request when this one is in the queue, so that the order of arrival is the same on both sides.
            while (await client.get(f"/v1/pools/{pool.pool_id}")).json()["waiting"] <= position:
                await asyncio.sleep(0)
        began = time.perf_counter()
        for lease in held:
            (await client.delete(f"/v1/leases/{lease}")).raise_for_status()
    for http in connections:
        await http.close()
    overtaken = 0
    before: list[int] = []
    for position in sorted(granted, key=lambda position: granted[position]):
        overtaken = max(overtaken, sum(earlier > position for earlier in before))
        before.append(position)
    return QueueResults([at - began for at in answered.values()], overtaken, errors)


def _findings(
    effort: Effort, pools: list[MeasuredPool], queue_results: dict[int, list[QueueResults]]
) -> Findings:
    figures: dict[str, float] = {}
    sizes, lines = [], []
    smallest: dict[str, MeasuredPool] = {}
    for pool in pools:
        key = f"{pool.isolation}.{pool.wanted}"
        all_taken = [taken for taken_round in pool.rounds for taken in taken_round]
        smallest_pool = smallest.setdefault(pool.isolation, pool)
        flat, text = ratio(
            [median(one) for one in pool.rounds], [median(one) for one in smallest_pool.rounds]
        )
        figures |= {
            f"{key}.size": pool.size,
            f"{key}.acquire_p50_seconds": percentile(all_taken, 50),
            f"{key}.acquire_p99_seconds": percentile(all_taken, 99),
            f"{key}.acquire_p50/smallest": flat,
            f"{key}.memory_bytes": pool.memory_bytes,
        }
        short = "" if pool.size == pool.wanted else f" (of {pool.wanted:,}: {pool.stopped_because})"
        sizes.append(
            [
                f"{pool.size:,}{short}",
                pool.isolation,
                milliseconds(percentile(all_taken, 50)),
                milliseconds(percentile(all_taken, 99)),
                "" if pool is smallest_pool else text,
                "" if pool is smallest_pool else f"≤ {GOAL}",
                f"{pool.memory_bytes / 2**20:.0f}",
                f"{pool.size / pool.fill_seconds:.0f}",
            ]
        )
    for number, rounds in queue_results.items():
        waits = [wait for one in rounds for wait in one.waits]
        errors, overtaken = sum(one.errors for one in rounds), max(one.overtaken for one in rounds)
        per_second = median(number / max(one.waits) for one in rounds)
        figures |= {
            f"waiters.{number}.errors": errors,
            f"waiters.{number}.overtaken": overtaken,
            f"waiters.{number}.longest_seconds": max(waits),
            f"waiters.{number}.grants_per_second": per_second,
        }
        lines.append(
            [
                f"{number:,}",
                milliseconds(percentile(waits, 50)),
                milliseconds(percentile(waits, 99)),
                milliseconds(max(waits)),
                f"{per_second:.0f}",
                f"{overtaken}",
                f"{errors}",
            ]
        )
    return Findings(
        settings=[
            (
                "Sizes: a service with servers of its own for each, paused while another is measured. A "
                f"template of {TABLES} empty tables. {effort.rounds} rounds of {effort.acquires} acquires by "
                f"one caller (http.client), {effort.at_once} at a time, on an idle machine."
            ),
            f"A pool gets {effort.fill_seconds:.0f} s to fill, and is then measured as it is.",
            (
                f"Waiters: on the pool of {pools[0].size}, all leased. When all waiters are in the queue, those "
                f"leases are released. Each waiter releases its lease at once. {effort.waiter_rounds} "
                "rounds. Waits count from the first release."
            ),
            (
                "Each waiter comes when the one before is in the queue. Overtaken by: the most later waiters whose "
                "lease was granted earlier than that of one waiter (by the service's own `granted_at`)."
            ),
        ],
        tables=[
            Table(
                caption="Size",
                head=[
                    "databases",
                    "isolation",
                    "acquire p50, ms",
                    "p99, ms",
                    "p50 to that of the smallest",
                    "goal",
                    "memory of the service, MiB",
                    "created per second",
                ],
                rows=sizes,
            ),
            Table(
                caption="Waiters",
                head=[
                    "waiters",
                    "wait p50, ms",
                    "p99, ms",
                    "longest, ms",
                    "served/s",
                    "overtaken by",
                    "errors",
                ],
                rows=lines,
            ),
        ],
        figures=figures,
    )
