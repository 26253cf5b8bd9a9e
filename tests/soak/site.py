"""Where a soak happens: four replicas, over two managed servers, the control plane's, and two Redis of which one is used."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from socket import socket
from typing import Final

import httpx
import redis

from freshdb_service.embedded import EmbeddedPostgres, EmbeddedRedis
from tests import asking
from tests.faults.clocks import WrongClock, faketime, sweep
from tests.faults.proxy import Proxy
from tests.services import Service, start_service
from tests.soak.checker import FORGET_SECONDS
from tests.soak.measures import Sample, of_process, of_servers

REPLICAS: Final = 4
MORTAL: Final = 3
"""So many of the replicas are killed; one never is, so that what it uses can be watched."""
SETTINGS: Final = {
    "answer_seconds": 6,
    "min_ready": 2,
    "max_size": 12,
    "failed_seconds": 1,
    "history_seconds": FORGET_SECONDS,
    "max_ttl_seconds": 600,
}
ANSWER_SECONDS: Final = 30.0
_DISK_MEGABYTES: Final = 700
_STAMP: Final = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
_LAST_LINES: Final = 12
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a directory of our own is made in it


@dataclass(slots=True)
class Site:
    """What there is, and where."""

    directory: Path
    control: EmbeddedPostgres
    managed: list[EmbeddedPostgres]
    redis: list[EmbeddedRedis]
    """The first is the one that is used."""
    redis_urls: list[str]
    proxy: Proxy
    """Before the Redis that is used."""
    control_dsn: str
    dsns: list[str]
    ports: list[int]
    clocks: list[WrongClock]
    """Of the replicas, where there is libfaketime."""
    disk: Path | None
    """The small file system that the second managed server has for itself, where one may be mounted."""
    replicas: list[Service] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    """Tracebacks in the logs of replicas."""

    @property
    def urls(self) -> list[str]:
        """Of the replicas, whether they run or not."""
        return [f"http://127.0.0.1:{port}" for port in self.ports]

    @property
    def redis_url(self) -> str:
        """Of the Redis that is used, past the proxy."""
        return self.redis_urls[0]

    @property
    def homes(self) -> list[Path]:
        """Of the PostgreSQL servers: the control plane's, and the managed ones."""
        return [server.data for server in (self.control, *self.managed)]

    @classmethod
    @asynccontextmanager
    async def opened(cls) -> AsyncIterator[Site]:
        """Everything started; and ended again."""
        directory = Path(tempfile.mkdtemp(prefix="freshdb-soak-", dir=_MEMORY if _MEMORY.is_dir() else None))
        directory.chmod(0o755)
        durable = {
            "synchronous_commit": "on",
            "max_connections": "300",
            "min_wal_size": "80MB",
            "max_wal_size": "80MB",
        }
        async with AsyncExitStack() as stack:
            stack.callback(shutil.rmtree, directory)
            disk = stack.enter_context(_small_disk(directory / "small"))
            homes = [directory / "control", directory / "one", (disk or directory) / "two"]
            servers = [EmbeddedPostgres(home, settings=durable) for home in homes]
            keys = [EmbeddedRedis(directory / name) for name in ("redis-a", "redis-b")]
            dsns, urls = [], []
            for server in servers:
                stack.push_async_callback(server.stop)
                dsns.append(await server.start())
            for one in keys:
                stack.push_async_callback(one.stop)
                urls.append(await one.start())
                if one is keys[0]:  # both have one password: whoever is led to the other need not know
                    (directory / "redis-b").mkdir()
                    shutil.copy(directory / "redis-a" / "password", directory / "redis-b" / "password")
            proxy = stack.enter_context(Proxy(urls[0]))
            library = faketime()
            clocks = (
                []
                if library is None
                else [WrongClock(directory / f"clock-{n}", library) for n in range(REPLICAS)]
            )
            site = cls(
                directory,
                servers[0],
                servers[1:],
                keys,
                urls,
                proxy,
                dsns[0],
                dsns[1:],
                _free_ports(),
                clocks,
                disk,
            )
            stack.callback(site._end)
            await site._serve()
            yield site

    def _end(self) -> None:
        for service in self.replicas:
            service.process.send_signal(signal.SIGCONT)
            service.stop()
        sweep()

    async def _serve(self) -> None:
        for clock in self.clocks:
            clock.is_off_by(0)
        for number in range(REPLICAS):
            self.replicas.append(await asyncio.to_thread(self._start, number))

    def _start(self, number: int) -> Service:
        return start_service(
            [f"{name}={dsn}" for name, dsn in zip(("one", "two"), self.dsns, strict=True)],
            self.proxy.url,
            settings=SETTINGS,
            arguments=("--port", str(self.ports[number])),
            replica_of=self.replicas[0] if self.replicas else None,
            control=self.control_dsn,
            environment=self.clocks[number].environment if self.clocks else None,
        )

    def look(self) -> Sample:
        """What the immortal replica, and the servers, use now."""
        found = of_process(self.replicas[-1].process.pid)
        pids = []
        for home in self.homes:
            with suppress(OSError, ValueError, IndexError):
                pids.append(pid_of(home / "cluster" / "postmaster.pid"))
        names = ("the control plane's server", "the managed server one", "the managed server two")
        if len(pids) == len(names):
            found |= of_servers(names, pids)
        with suppress(redis.RedisError), redis.Redis.from_url(self.redis_url, socket_timeout=1) as keys:
            found["keys in Redis"] = float(keys.dbsize())
        return found

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
        async with (
            httpx.AsyncClient(verify=asking.PLAIN, timeout=5) as client,
            asyncio.timeout(ANSWER_SECONDS),
        ):
            for url in self.urls:
                while True:
                    try:
                        if (await client.get(f"{url}/readyz")).status_code == httpx.codes.OK:
                            break
                    except httpx.HTTPError:
                        pass
                    await asyncio.sleep(0.05)


def unexpected(log: str) -> list[str]:
    """Every error with a traceback, the end of it."""
    found: list[str] = []
    lines = log.splitlines()
    starts = [number for number, line in enumerate(lines) if _STAMP.match(line)]
    for number, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        if " ERROR " in lines[number] and end > number + 1:
            found.append("\n".join([lines[number], *lines[max(number + 1, end - _LAST_LINES) : end]]))
    return found


def pid_of(path: Path) -> int:
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


@contextmanager
def _small_disk(path: Path) -> Iterator[Path | None]:
    """A file system that can be filled; ``None`` where none may be mounted."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_MEGABYTES}m,mode=0755", "tmpfs", str(path)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        yield None
        return
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)
