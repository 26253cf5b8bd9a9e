"""The measured services: the real command in its own process, with its own servers, in memory if possible.

Several services can exist at once, to be measured alternating. All processes of the others are paused, so that only one
service works at a time.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil

ROOT = Path(__file__).parents[2]
TABLES = 30
_STOP_SECONDS = 120.0
_LAST_LINES = 20
_MEMORY = Path("/dev/shm")  # noqa: S108 - mkdtemp
IN_MEMORY = os.access(_MEMORY, os.W_OK)
DATA_LOCATION = "data in memory" if IN_MEMORY else "data on a disk"
"""Part of the notes on the conditions of the measurement."""


def schema(tables: int = TABLES) -> str:
    """Return DDL of this number of tables, each with a sequence, two indexes, and a foreign key to the table before."""
    return "\n".join(
        f"create table t{n} (id bigserial primary key, name text not null default '', at timestamptz default "
        f"now(){f', parent_id bigint references t{n - 1}' if n else ''});create index on t{n} (name);"
        for n in range(tables)
    )


@dataclass(frozen=True, slots=True)
class Cpu:
    """Processor seconds that a service and its servers have used so far."""

    service: float
    postgres: float
    redis: float

    def __sub__(self, earlier: Cpu) -> Cpu:
        """Return the processor seconds used between two measurements."""
        return Cpu(
            self.service - earlier.service, self.postgres - earlier.postgres, self.redis - earlier.redis
        )


@dataclass(frozen=True, slots=True)
class Served:
    """A service that this run started, with its servers."""

    url: str
    data: Path
    process: subprocess.Popen[bytes]
    seconds_to_ready: float

    @property
    def log(self) -> str:
        """Text of the service's log."""
        return (self.data / "bench.log").read_text()

    def client(self) -> httpx.Client:
        """Return a client for calls that are not measured."""
        return httpx.Client(base_url=self.url, timeout=120)

    def cpu(self) -> Cpu:
        """Return the processor seconds of all processes of the service, including those that have ended."""
        used = {"service": 0.0, "postgres": 0.0, "redis": 0.0}
        for process in self._tree():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                used[_part(process)] += times.user + times.system
                # The figure for a process includes its children only after they have ended.
                if not _is_service(process) or process.pid == self.process.pid:
                    used[_part(process)] += times.children_user + times.children_system
        return Cpu(**used)

    def memory_bytes(self) -> int:
        """Return the resident memory of the service's own processes."""
        return sum(process.memory_info().rss for process in self._tree() if _is_service(process))

    def pause(self) -> None:
        """Suspend every process. The service comes first, so that it never runs while its servers are suspended."""
        for process in self._tree():
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def resume(self) -> None:
        """Resume every process. The service comes last, after its servers."""
        for process in reversed(self._tree()):
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def _tree(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            top = psutil.Process(self.process.pid)
            return [top, *top.children(recursive=True)]
        return []


@contextmanager
def serving(
    data: Path, engine: str | None = None, python: str = sys.executable, /, **settings: str | float
) -> Iterator[Served]:
    """Run ``freshdb serve`` with embedded servers, or the same service with another engine of ``engines``.

    ``python`` is the interpreter of the environment whose service runs.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FRESHDB_")}
    environment |= {f"FRESHDB_{name.upper()}": str(value) for name, value in settings.items()}
    program = ["freshdb_service"] if engine is None else ["tests.benchmarks.engines", engine]
    began = time.perf_counter()
    with (data / "bench.log").open("ab") as log:
        process = subprocess.Popen(
            [python, "-m", *program, "--data", str(data), "--port", "0"],
            env=environment,
            cwd=ROOT,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
    announced = data / "service.json"
    while not announced.exists():
        if process.poll() is not None:
            raise RuntimeError((data / "bench.log").read_text())
        time.sleep(0.002)
    url = json.loads(announced.read_text())["url"]
    served = Served(url, data, process, time.perf_counter() - began)
    try:
        yield served
    except Exception as error:
        error.add_note(
            "the last lines of the service's log:\n" + "\n".join(served.log.splitlines()[-_LAST_LINES:])
        )
        raise
    finally:
        served.resume()
        process.terminate()
        process.wait(_STOP_SECONDS)


@contextmanager
def data_directory() -> Iterator[Path]:
    """Create a directory for embedded servers, in memory if possible, and remove it afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="freshdb-bench-", dir=_MEMORY if IN_MEMORY else None))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def register(client: httpx.Client, name: str, *sql: str) -> None:
    """Register a template."""
    body = {"name": name, "sql": list(sql), "wait_seconds": 300}
    _checked(client.post("/v1/templates", json=body, timeout=600))


def open_pool(client: httpx.Client, template: str, isolation: str = "database") -> str:
    """Create a template's pool by one lease from it. Return the pool's id."""
    lease = acquire(client, template, isolation)
    release(client, lease["id"])
    return lease["pool_id"]


def resize(client: httpx.Client, pool_id: str, number: int) -> None:
    """Set the pool to exactly this number of databases."""
    sizes = {"min_ready": number, "max_size": number}
    _checked(client.patch(f"/v1/pools/{pool_id}", json=sizes))


def wait_until_ready(
    client: httpx.Client, pool_id: str, number: int, *, at_most_seconds: float = 600.0
) -> int:
    """Wait until this number of databases is ready or the time has passed. Return the number of ready ones."""
    until = time.monotonic() + at_most_seconds
    while True:
        ready: int = client.get(f"/v1/pools/{pool_id}").json()["databases"].get("ready", 0)
        if ready >= number or time.monotonic() > until:
            return ready
        time.sleep(0.05)


def reset_each_database_once(client: httpx.Client, pool_id: str, template: str, number: int) -> None:
    """Lease and release each database of the pool once, so that no database is measured at its first reset."""
    for held in [acquire(client, template)["id"] for _ in range(number)]:
        release(client, held)
    if wait_until_ready(client, pool_id, number) < number:
        raise RuntimeError(f"the pool {pool_id} did not become ready again")


def acquire(client: httpx.Client, template: str, isolation: str = "database") -> dict[str, str]:
    """Acquire a lease and return it."""
    answer = client.post(
        "/v1/leases",
        json={"template": template, "isolation": isolation, "wait_seconds": 60, "ttl_seconds": 3600},
    )
    lease: dict[str, str] = _checked(answer).json()
    return lease


def release(client: httpx.Client, lease_id: str) -> None:
    """Release the lease."""
    _checked(client.delete(f"/v1/leases/{lease_id}"))


class PlainClient:
    """A measured caller on one kept-alive connection, with as little overhead as Python's library allows."""

    def __init__(self, url: str, template: str, isolation: str = "database") -> None:
        address = urlsplit(url)
        self._connection = http.client.HTTPConnection(address.hostname or "", address.port)
        self._connection.connect()
        self._body = json.dumps({"template": template, "isolation": isolation})

    def acquire(self) -> str:
        """Acquire a lease and return its id."""
        self._connection.request("POST", "/v1/leases", self._body, {"content-type": "application/json"})
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status != http.client.CREATED:
            raise RuntimeError(f"acquire: {answer.status} {content!r}")
        lease: str = json.loads(content)["id"]
        return lease

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _checked(answer: httpx.Response) -> httpx.Response:
    if answer.is_error:
        raise RuntimeError(f"{answer.request.method} {answer.url}: {answer.status_code} {answer.text}")
    return answer


def _part(process: psutil.Process) -> str:
    name = process.name()
    return "postgres" if name.startswith("postgres") else "redis" if name.startswith("redis") else "service"


def _is_service(process: psutil.Process) -> bool:
    return _part(process) == "service"
