"""The clients of ``turnover``, in a process of their own. Each loops {acquire, connect, insert, close, release}.

They use as little processor time as Python allows, because they share the processors with the measured service. They send
plain HTTP over one kept-alive connection per client. Their driver is asyncpg (whose login costs less than libpq's), with one
message for the three inserts.

They first warm up: until ``--warm-up-leases`` are done and two seconds have passed. By then the databases that were ready at
the start are used up, if they ever are, and the clients use databases that are cleaned in the meantime. Then they print
``began``, work for ``--seconds``, and print ``ended``. When the last lease is released, they print their results in JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

import asyncpg
import uvloop

from tests.benchmarks.running import TABLES

TOUCHED = 3
_WARM_UP_SECONDS = 2.0


@dataclass(slots=True)
class Http:
    """One kept-alive connection. Requests and responses are as short as the service's API allows."""

    host: str
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def to(cls, url: str) -> Self:
        """Connect."""
        where = urlsplit(url)
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        return cls(where.netloc, reader, writer)

    async def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Send one request. Return status and body of the response."""
        self.send(method, path, body)
        return await self.answer()

    def send(self, method: str, path: str, body: bytes = b"") -> None:
        """Send a request without reading the response."""
        kind = "content-type: application/json\r\n" if body else ""
        head = f"{method} {path} HTTP/1.1\r\nhost: {self.host}\r\n{kind}content-length: {len(body)}\r\n\r\n"
        self.writer.write(head.encode() + body)

    async def answer(self) -> tuple[int, bytes]:
        """Read the response. Return its status and body."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        length = 0
        if (at := head.find(b"content-length:")) >= 0:
            length = int(head[at + 15 : head.index(b"\r\n", at)])
        return int(head[9:12]), await self.reader.readexactly(length)

    async def close(self) -> None:
        """Close the connection."""
        self.writer.close()
        await self.writer.wait_closed()


@dataclass(slots=True)
class ClientState:
    """Results of one client so far."""

    stop: bool = False
    done: int = 0
    acquires: list[tuple[float, float]] = field(default_factory=list)
    """Start and duration of each acquire."""


async def run_client(url: str, template: str, seed: int, state: ClientState) -> None:
    """Run one client until ``turns.stop`` is set."""
    random_source = random.Random(seed)  # noqa: S311 - which tables, nothing secret
    body = json.dumps({"template": template, "wait_seconds": 60}).encode()
    http = await Http.to(url)
    while not state.stop:
        began = time.perf_counter()
        status, answer = await http.ask("POST", "/v1/leases", body)
        taken = time.perf_counter() - began
        if status != 201:
            raise RuntimeError(f"acquire: {status} {answer!r}")
        lease = json.loads(answer)
        connection = await asyncpg.connect(lease["url"], ssl=False, statement_cache_size=0)
        tables = random_source.sample(range(TABLES), TOUCHED)
        await connection.execute("; ".join(f"insert into t{n} (name) values ('one')" for n in tables))
        await connection.close()
        status, answer = await http.ask("DELETE", f"/v1/leases/{lease['id']}")
        if status >= 300:
            raise RuntimeError(f"release: {status} {answer!r}")
        state.acquires.append((began, taken))
        state.done += 1
    await http.close()


async def run_clients(
    urls: Sequence[str], templates: Sequence[str], concurrency: int, warm_up_leases: int, seconds: float
) -> None:
    """Run all clients. Clients are distributed evenly over the services and templates."""
    clients = [ClientState() for _ in range(concurrency)]
    began = time.perf_counter()

    def done() -> list[int]:
        return [state.done for state in clients]

    async with asyncio.TaskGroup() as group:
        for number, state in enumerate(clients):
            url, template = urls[number % len(urls)], templates[number % len(templates)]
            group.create_task(run_client(url, template, number, state))
        while sum(done()) < warm_up_leases or time.perf_counter() - began < _WARM_UP_SECONDS:
            await asyncio.sleep(0.01)
        print("began", flush=True)  # noqa: T201 - the parent reads it
        window, cpu, before = time.perf_counter(), time.process_time(), done()
        await asyncio.sleep(seconds)
        taken, cpu = time.perf_counter() - window, time.process_time() - cpu
        leases = [now - then for now, then in zip(done(), before, strict=True)]
        print("ended", flush=True)  # noqa: T201 - the parent reads it
        for state in clients:
            state.stop = True
    seen = {
        "leases": sum(leases),
        "by_url": [sum(leases[number :: len(urls)]) for number in range(len(urls))],
        "by_template": [sum(leases[number :: len(templates)]) for number in range(len(templates))],
        "seconds": taken,
        "cpu_seconds": cpu,
        "acquires": [one for state in clients for at, one in state.acquires if window <= at < window + taken],
    }
    print(json.dumps(seen))  # noqa: T201


def main() -> None:
    """Parse the arguments and run the clients."""
    parser = argparse.ArgumentParser()
    parser.add_argument("urls", help="URLs of the services, separated by commas")
    parser.add_argument("templates", help="names of the templates, separated by commas")
    parser.add_argument("--concurrency", type=int, required=True)
    parser.add_argument("--warm-up-leases", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    arguments = parser.parse_args()
    urls, templates = arguments.urls.split(","), arguments.templates.split(",")
    uvloop.run(
        run_clients(urls, templates, arguments.concurrency, arguments.warm_up_leases, arguments.seconds)
    )


if __name__ == "__main__":
    main()
