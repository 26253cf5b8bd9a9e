"""Faults: what happens to replicas, Redis and PostgreSQL over a long run. Seeded, so that a run can be had again."""

from __future__ import annotations

import asyncio
import random
import re
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from socket import socket
from time import monotonic
from typing import Final

import httpx
import psutil
import redis

from freshdb_service.embedded import EmbeddedPostgres, EmbeddedRedis
from tests.services import Service, start_service
from tests.soak.history import Fault, History
from tests.soak.holders import TTL_SECONDS

REPLICAS: Final = 3
SETTINGS: Final = {
    "min_ready": 2,
    "max_size": 8,
    "failed_seconds": 1,
    "history_seconds": 1,
    "max_ttl_seconds": 600,
}
ANSWER_SECONDS: Final = 30.0
_STAMP: Final = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
_LAST_LINES: Final = 12
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a directory of our own is made in it


@dataclass(slots=True)
class Site:
    """Three replicas over two managed servers; the control plane is on a third one."""

    directory: Path
    control: EmbeddedPostgres
    managed: list[EmbeddedPostgres]
    redis: EmbeddedRedis
    control_dsn: str
    dsns: list[str]
    redis_url: str
    ports: list[int]
    replicas: list[Service] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    """Tracebacks in the logs of replicas."""

    @property
    def urls(self) -> list[str]:
        """Of the replicas, whether they run or not."""
        return [f"http://127.0.0.1:{port}" for port in self.ports]

    @classmethod
    @asynccontextmanager
    async def opened(cls) -> AsyncIterator[Site]:
        """Everything started; and ended again."""
        directory = Path(tempfile.mkdtemp(prefix="freshdb-soak-", dir=_MEMORY if _MEMORY.is_dir() else None))
        directory.chmod(0o755)
        durable = {"synchronous_commit": "on", "max_connections": "300"}
        servers = [EmbeddedPostgres(directory / name, settings=durable) for name in ("control", "one", "two")]
        keys = EmbeddedRedis(directory / "redis")
        site: Site | None = None
        try:
            dsns = [await server.start() for server in servers]
            site = cls(
                directory, servers[0], servers[1:], keys, dsns[0], dsns[1:], await keys.start(), _free_ports()
            )
            await site._serve()
            yield site
        finally:
            for service in site.replicas if site is not None else []:
                service.process.send_signal(signal.SIGCONT)
                service.stop()
            for server in servers:
                await server.stop()
            await keys.stop()
            shutil.rmtree(directory)

    async def _serve(self) -> None:
        # The first "managed" server of ``start_service`` is where the control database is made.
        first = await asyncio.to_thread(self._start, 0)
        self.replicas.append(first)
        for number in range(1, REPLICAS):
            self.replicas.append(await asyncio.to_thread(self._start, number))

    def _start(self, number: int) -> Service:
        return start_service(
            [f"{name}={dsn}" for name, dsn in zip(("one", "two"), self.dsns, strict=True)],
            self.redis_url,
            settings=SETTINGS,
            arguments=("--port", str(self.ports[number])),
            replica_of=self.replicas[0] if self.replicas else None,
            control=self.control_dsn,
        )

    def complaints(self) -> None:
        """Keep what the replicas did not expect."""
        for service in self.replicas:
            if service.log_path.exists():
                self.unexpected += unexpected(service.log)

    async def restart(self, number: int) -> None:
        """A new process in the place of one that is gone."""
        service = self.replicas[number]
        self.unexpected += unexpected(service.log)
        shutil.rmtree(service.data, ignore_errors=True)
        self.replicas[number] = await asyncio.to_thread(self._start, number)

    async def answering(self) -> None:
        """Every replica says that it is ready."""
        async with httpx.AsyncClient(timeout=5) as client, asyncio.timeout(ANSWER_SECONDS):
            for url in self.urls:
                while True:
                    try:
                        if (await client.get(f"{url}/readyz")).status_code == httpx.codes.OK:
                            break
                    except httpx.HTTPError:
                        pass
                    await asyncio.sleep(0.05)


@dataclass(slots=True)
class Faults:
    """One fault after the other, with some peace in between."""

    site: Site
    history: History
    choose: random.Random
    say: Callable[[str], None]

    async def happen(self, until: float, *, every_seconds: float) -> None:
        """Until an instant of the monotonic clock."""
        kinds: list[Callable[[], Awaitable[str]]] = [
            *[self._replica_killed] * 4,
            self._replica_paused,
            self._redis_emptied,
            self._redis_paused,
            self._managed_crashed,
            self._control_crashed,
        ]
        while monotonic() < until:
            await asyncio.sleep(self.choose.uniform(0.5, 1.5) * every_seconds)
            kind = self.choose.choice(kinds)
            began = monotonic()
            what = await kind()
            await self.site.answering()
            unreachable = kind == self._managed_crashed
            self.history.faults.append(Fault(what, began, monotonic(), unreachable))
            self.say(f"{what}; all there again after {monotonic() - began:.1f} s")

    async def _replica_killed(self) -> str:
        number = self.choose.randrange(REPLICAS)
        self.site.replicas[number].kill()
        await asyncio.sleep(self.choose.uniform(0, 0.5))
        await self.site.restart(number)
        return f"replica {number} killed"

    async def _replica_paused(self) -> str:
        number = self.choose.randrange(REPLICAS)
        process = self.site.replicas[number].process
        process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(TTL_SECONDS * 1.5)
        finally:
            process.send_signal(signal.SIGCONT)
        return f"replica {number} paused for longer than a TTL"

    async def _redis_emptied(self) -> str:
        def empty() -> None:
            with closing(redis.Redis.from_url(self.site.redis_url)) as connection:
                connection.flushall()

        await asyncio.to_thread(empty)
        return "Redis emptied"

    async def _redis_paused(self) -> str:
        pid = psutil.Process(_pid_of(self.site.directory / "redis" / "redis.pid"))
        pid.suspend()
        try:
            await asyncio.sleep(self.choose.uniform(1, TTL_SECONDS / 2))
        finally:
            pid.resume()
        return "Redis paused"

    async def _managed_crashed(self) -> str:
        number = self.choose.randrange(len(self.site.managed))
        name = ("one", "two")[number]
        await self._crash(self.site.managed[number], self.site.directory / name)
        return f"the managed server {name} crashed"

    async def _control_crashed(self) -> str:
        await self._crash(self.site.control, self.site.directory / "control")
        return "the control plane's server crashed"

    async def _crash(self, server: EmbeddedPostgres, home: Path) -> None:
        postmaster = psutil.Process(_pid_of(home / "cluster" / "postmaster.pid"))
        postmaster.send_signal(signal.SIGQUIT)  # as ``pg_ctl stop -m immediate`` does
        while not _is_gone(postmaster):
            await asyncio.sleep(0.01)
        await asyncio.sleep(self.choose.uniform(0, 1))
        await server.start()


def _is_gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def unexpected(log: str) -> list[str]:
    """Every error with a traceback, the end of it."""
    found: list[str] = []
    lines = log.splitlines()
    starts = [number for number, line in enumerate(lines) if _STAMP.match(line)]
    for number, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        if " ERROR " in lines[number] and end > number + 1:
            found.append("\n".join([lines[number], *lines[max(number + 1, end - _LAST_LINES) : end]]))
    return found


def _pid_of(path: Path) -> int:
    return int(path.read_text().split()[0])


def _free_ports() -> list[int]:
    sockets = [socket() for _ in range(REPLICAS)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
