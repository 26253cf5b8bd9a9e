"""The installation of a soak: four replicas, two managed servers, the control plane's server, and two Redis (one in use)."""

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
from tests import plain_http
from tests.faults.clocks import WrongClock, faketime_library, remove_shared_memory
from tests.faults.proxy import Proxy
from tests.services import Service, start_service
from tests.soak.checker import HISTORY_SECONDS
from tests.soak.measures import Sample, measure_catalogs, measure_process, measure_servers

REPLICAS: Final = 4
KILLED_REPLICAS: Final = 3
"""Number of replicas that are killed. The remaining one is never killed, so that its resource use can be measured."""
SETTINGS: Final = {
    "answer_seconds": 6,
    "min_ready": 2,
    "max_size": 12,
    "failed_seconds": 1,
    "history_seconds": HISTORY_SECONDS,
    "max_ttl_seconds": 600,
}
ANSWER_SECONDS: Final = 30.0
_DISK_MEGABYTES: Final = 700
_STAMP: Final = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
_LAST_LINES: Final = 12
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a directory of its own is created in it


@dataclass(slots=True)
class Installation:
    """Servers, replicas and files of a soak."""

    directory: Path
    control: EmbeddedPostgres
    managed: list[EmbeddedPostgres]
    redis: list[EmbeddedRedis]
    """The first one is in use."""
    redis_urls: list[str]
    proxy: Proxy
    """The proxy in front of the Redis in use."""
    control_dsn: str
    dsns: list[str]
    ports: list[int]
    clocks: list[WrongClock]
    """Clocks of the replicas, if libfaketime is installed."""
    disk: Path | None
    """The small file system of the second managed server, where one may be mounted."""
    replicas: list[Service] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    """Tracebacks in the logs of the replicas."""

    @property
    def urls(self) -> list[str]:
        """URLs of all replicas, whether they run or not."""
        return [f"http://127.0.0.1:{port}" for port in self.ports]

    @property
    def redis_url(self) -> str:
        """URL of the Redis in use, not through the proxy."""
        return self.redis_urls[0]

    @property
    def data_directories(self) -> list[Path]:
        """Directories of the PostgreSQL servers: the control plane's, then the managed ones."""
        return [server.data for server in (self.control, *self.managed)]

    @classmethod
    @asynccontextmanager
    async def opened(cls) -> AsyncIterator[Installation]:
        """Start all servers and replicas, and stop them at the end."""
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
            data_directories = [directory / "control", directory / "one", (disk or directory) / "two"]
            servers = [
                EmbeddedPostgres(data_directory, settings=durable) for data_directory in data_directories
            ]
            redis_servers = [EmbeddedRedis(directory / name) for name in ("redis-a", "redis-b")]
            dsns, urls = [], []
            for server in servers:
                stack.push_async_callback(server.stop)
                dsns.append(await server.start())
            for one in redis_servers:
                stack.push_async_callback(one.stop)
                urls.append(await one.start())
                if one is redis_servers[0]:  # both have one password, so a failover does not change it
                    (directory / "redis-b").mkdir()
                    shutil.copy(directory / "redis-a" / "password", directory / "redis-b" / "password")
            proxy = stack.enter_context(Proxy(urls[0]))
            library = faketime_library()
            clocks = (
                []
                if library is None
                else [WrongClock(directory / f"clock-{n}", library) for n in range(REPLICAS)]
            )
            installation = cls(
                directory,
                servers[0],
                servers[1:],
                redis_servers,
                urls,
                proxy,
                dsns[0],
                dsns[1:],
                _free_ports(),
                clocks,
                disk,
            )
            stack.callback(installation._end)
            await installation._serve()
            yield installation

    def _end(self) -> None:
        for service in self.replicas:
            service.process.send_signal(signal.SIGCONT)
            service.stop()
        remove_shared_memory()

    async def _serve(self) -> None:
        for clock in self.clocks:
            clock.set_offset(0)
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

    def measure(self) -> Sample:
        """Measure the replica that is never killed, and the servers."""
        found = measure_process(self.replicas[-1].process.pid)
        pids = []
        for data_directory in self.data_directories:
            with suppress(OSError, ValueError, IndexError):
                pids.append(pid_of(data_directory / "cluster" / "postmaster.pid"))
        names = ("the control plane's server", "the managed server one", "the managed server two")
        if len(pids) == len(names):
            found |= measure_servers(names, pids)
        with suppress(redis.RedisError), redis.Redis.from_url(self.redis_url, socket_timeout=1) as connection:
            found["keys in Redis"] = float(connection.dbsize())
        return found | measure_catalogs(
            self.replicas[-1].control_dsn, dict(zip(names[1:], self.dsns, strict=True))
        )

    def collect_tracebacks(self) -> None:
        """Add the tracebacks in the logs of all replicas to ``unexpected``."""
        for service in self.replicas:
            if service.log_path.exists():
                self.unexpected += unexpected(service.log)

    async def restart(self, number: int) -> None:
        """Start a new process for a replica that has died."""
        service = self.replicas[number]
        self.unexpected += unexpected(service.log)
        shutil.rmtree(service.data, ignore_errors=True)
        self.replicas[number] = await asyncio.to_thread(self._start, number)

    async def wait_until_ready(self) -> None:
        """Wait until every replica is ready."""
        async with (
            httpx.AsyncClient(verify=plain_http.NO_CERTIFICATES, timeout=5) as client,
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
    """Return every error with a traceback: its first line and the end of the traceback."""
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
    """Mount a file system that can be filled. Yield ``None`` where none may be mounted."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_MEGABYTES}m,mode=0755", "tmpfs", str(path)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        yield None
        return
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)
