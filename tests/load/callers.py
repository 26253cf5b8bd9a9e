"""Clients that create the load. Each role has a process of its own.

They use as little processor time as Python allows: plain HTTP over kept-alive connections
(``tests.benchmarks.client_loop.Http``).

``queue``: clients that wait in the queue of one template, hold their lease for a while, release it, and wait again. In
addition, clients that come when the queue is full. ``heartbeats``: leases in the pools of many templates that are renewed at
a fixed rate. Each heartbeat is timed from the instant at which it was due, so one that is sent late because earlier ones
were slow counts as slow. In addition, a few clients of each of these templates that lease and release.

A role prints ``ready`` when all of its clients are connected, and begins to record results. When its standard input ends, it
closes its connections, and writes its results in JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Coroutine, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import uvloop

from tests.benchmarks.client_loop import Http
from tests.load.outcome import Results

_SETTLED_SECONDS = 0.5


@dataclass(slots=True)
class Role:
    """Clients that work until their standard input ends."""

    url: str
    seed: int
    hold_seconds: float
    results: Results = field(default_factory=Results)
    renewed_leases: int = 0
    """Number of leases that are being renewed."""

    async def lease_in_a_loop(self, template: str, number: int, *, wait_seconds: float = 120.0) -> None:
        """Run one client: acquire, hold, release, again and again."""
        random_source = random.Random(self.seed * 100_003 + number)  # noqa: S311 - how long a lease is held, nothing secret
        http = await Http.to(self.url)
        holder = {"name": f"{template} {number}"}
        body = json.dumps({"template": template, "wait_seconds": wait_seconds, "holder": holder}).encode()
        while True:
            began = time.perf_counter()
            http.send("POST", "/v1/leases", body)
            status, retry_after, answer = await self._answer(http)
            taken = time.perf_counter() - began
            if status != 201:
                self._refused(status, retry_after, answer, taken, timed_out=taken >= wait_seconds)
                await asyncio.sleep(retry_after or 1.0)
                continue
            self.results.granted += 1
            self.results.waits.append(taken)
            await asyncio.sleep(random_source.uniform(0.5, 1.5) * self.hold_seconds)
            await self._release(http, json.loads(answer)["id"])

    async def send_heartbeats(self, template: str, number: int, every_seconds: float) -> None:
        """Renew one lease at a fixed rate."""
        http = await Http.to(self.url)
        body = json.dumps({"template": template, "wait_seconds": 120, "ttl_seconds": 30}).encode()
        status, answer = await http.ask("POST", "/v1/leases", body)
        if status != 201:
            raise RuntimeError(f"acquire: {status} {answer!r}")
        lease = json.loads(answer)["id"]
        self.renewed_leases += 1
        due = time.perf_counter() + every_seconds * random.Random(number).random()  # noqa: S311 - spread over the period
        while True:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            sent = time.perf_counter()
            status, answer = await http.ask("POST", f"/v1/leases/{lease}/renew", b"{}")
            now = time.perf_counter()
            self.results.renewals.append(now - due)
            self.results.renewals_sent.append(now - sent)
            if status != 200:
                self.results.count_failure(f"renew {status}")
            due += every_seconds

    async def _release(self, http: Http, lease: str) -> None:
        began = time.perf_counter()
        status, answer = await http.ask("DELETE", f"/v1/leases/{lease}")
        self.results.releases.append(time.perf_counter() - began)
        if status != 200:
            self.results.count_failure(f"release {status} {answer[:200]!r}")

    async def _answer(self, http: Http) -> tuple[int, float | None, bytes]:
        head = (await http.reader.readuntil(b"\r\n\r\n")).lower()
        length, retry_after = _number(head, b"content-length:"), _number(head, b"retry-after:")
        return int(head[9:12]), retry_after, await http.reader.readexactly(int(length or 0))

    def _refused(
        self, status: int, retry_after: float | None, answer: bytes, taken: float, *, timed_out: bool
    ) -> None:
        document = json.loads(answer)
        self.results.count_failure(f"acquire {status} {document['code']}")
        (self.results.timed_out if timed_out else self.results.refusals).append(taken)
        self.results.without_retry_after += retry_after is None


def _number(head: bytes, name: bytes) -> float | None:
    at = head.find(name)
    return float(head[at + len(name) : head.index(b"\r\n", at)]) if at >= 0 else None


async def _work(arguments: argparse.Namespace) -> Results:
    role = Role(arguments.url, arguments.seed, arguments.hold_seconds)
    tasks = {asyncio.create_task(one) for one in _callers(role, arguments)}
    while role.renewed_leases < arguments.templates * arguments.renewed_leases and not any(
        task.done() for task in tasks
    ):
        await asyncio.sleep(_SETTLED_SECONDS)
    await asyncio.sleep(_SETTLED_SECONDS)
    role.results = Results()
    print("ready", flush=True)  # noqa: T201 - the parent reads it
    input_ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    done, _ = await asyncio.wait({input_ended, *tasks}, return_when=asyncio.FIRST_COMPLETED)
    results, role.results = role.results, Results()
    for task in done:  # a client never ends by itself
        await task
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return results


def _callers(role: Role, arguments: argparse.Namespace) -> Iterator[Coroutine[object, object, None]]:
    if arguments.role == "queue":
        for number in range(arguments.clients + arguments.excess):
            yield role.lease_in_a_loop("queue", number)
        return
    every_seconds = arguments.templates * arguments.renewed_leases / arguments.per_second
    for number in range(arguments.templates * arguments.renewed_leases):
        yield role.send_heartbeats(f"pool{number % arguments.templates}", number, every_seconds)
    for number in range(arguments.templates * arguments.clients):
        yield role.lease_in_a_loop(f"pool{number % arguments.templates}", number)


def main() -> None:
    """Parse the arguments, run the clients, write the results."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["queue", "heartbeats"])
    parser.add_argument("url")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hold-seconds", type=float, required=True)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--excess", type=int, default=0)
    parser.add_argument("--templates", type=int, default=0)
    parser.add_argument("--renewed-leases", type=int, default=0)
    parser.add_argument("--per-second", type=float, default=0)
    arguments = parser.parse_args()
    arguments.out.write_text(json.dumps(asdict(uvloop.run(_work(arguments)))))


if __name__ == "__main__":
    main()
