"""The services that are measured: the real command in a process of its own, on servers of its own, in memory if possible.

Several can be there at once, to be measured in turns. Those whose turn it is not are paused, all their processes, so that
only one works at a time.
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
DATA_ARE = "data in memory" if IN_MEMORY else "data on a disk"
"""For the notes on how it was measured."""


def schema(tables: int = TABLES) -> str:
    """DDL of so many tables, each with a sequence, two indexes, and a foreign key to the one before."""
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
        """What was used since."""
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
        """What it has said."""
        return (self.data / "bench.log").read_text()

    def client(self) -> httpx.Client:
        """For what is not measured."""
        return httpx.Client(base_url=self.url, timeout=120)

    def cpu(self) -> Cpu:
        """What its processes have used, those that have ended included."""
        used = {"service": 0.0, "postgres": 0.0, "redis": 0.0}
        for process in self._tree():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                used[_part(process)] += times.user + times.system
                # Of its own children a process knows what they used once they have ended.
                if not _is_service(process) or process.pid == self.process.pid:
                    used[_part(process)] += times.children_user + times.children_system
        return Cpu(**used)

    def memory_bytes(self) -> int:
        """Resident memory of the service's own processes."""
        return sum(process.memory_info().rss for process in self._tree() if _is_service(process))

    def pause(self) -> None:
        """Stop every process; the service first, so that it misses nobody's answer."""
        for process in self._tree():
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def resume(self) -> None:
        """Go on; the service last."""
        for process in reversed(self._tree()):
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def _tree(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            top = psutil.Process(self.process.pid)
            return [top, *top.children(recursive=True)]
        return []


@contextmanager
def serving(data: Path, engine: str | None = None, **settings: str | float) -> Iterator[Served]:
    """Run ``freshdb serve`` with everything embedded, or the same with another engine of ``engines``."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FRESHDB_")}
    environment |= {f"FRESHDB_{name.upper()}": str(value) for name, value in settings.items()}
    program = ["freshdb_service"] if engine is None else ["tests.benchmarks.engines", engine]
    began = time.perf_counter()
    with (data / "bench.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *program, "--data", str(data), "--port", "0"],
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
        error.add_note("the service's last words:\n" + "\n".join(served.log.splitlines()[-_LAST_LINES:]))
        raise
    finally:
        served.resume()
        process.terminate()
        process.wait(_STOP_SECONDS)


@contextmanager
def data_directory() -> Iterator[Path]:
    """A directory for embedded servers, in memory if possible."""
    directory = Path(tempfile.mkdtemp(prefix="freshdb-bench-", dir=_MEMORY if IN_MEMORY else None))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def register(client: httpx.Client, name: str, *sql: str) -> None:
    """Make a template."""
    body = {"name": name, "sql": list(sql), "wait_seconds": 300}
    _checked(client.post("/v1/templates", json=body, timeout=600))


def open_pool(client: httpx.Client, template: str, isolation: str = "database") -> str:
    """Make a template's pool by leasing from it once; its id."""
    lease = acquire(client, template, isolation)
    release(client, lease["id"])
    return lease["pool_id"]


def resize(client: httpx.Client, pool_id: str, number: int) -> None:
    """Have the pool hold exactly so many."""
    sizes = {"min_ready": number, "max_size": number}
    _checked(client.patch(f"/v1/pools/{pool_id}", json=sizes))


def wait_until_ready(
    client: httpx.Client, pool_id: str, number: int, *, at_most_seconds: float = 600.0
) -> int:
    """Wait until so many databases are ready, or the time is over; how many are."""
    until = time.monotonic() + at_most_seconds
    while True:
        there: int = client.get(f"/v1/pools/{pool_id}").json()["databases"].get("ready", 0)
        if there >= number or time.monotonic() > until:
            return there
        time.sleep(0.05)


def break_in(client: httpx.Client, pool_id: str, template: str, number: int) -> None:
    """Lease and return each database of the pool once: none is measured at its first reset."""
    for held in [acquire(client, template)["id"] for _ in range(number)]:
        release(client, held)
    if wait_until_ready(client, pool_id, number) < number:
        raise RuntimeError(f"the pool {pool_id} did not become ready again")


def acquire(client: httpx.Client, template: str, isolation: str = "database") -> dict[str, str]:
    """Lease; the answer."""
    answer = client.post(
        "/v1/leases",
        json={"template": template, "isolation": isolation, "wait_seconds": 60, "ttl_seconds": 3600},
    )
    lease: dict[str, str] = _checked(answer).json()
    return lease


def release(client: httpx.Client, lease_id: str) -> None:
    """Return."""
    _checked(client.delete(f"/v1/leases/{lease_id}"))


class Plain:
    """One caller that is measured, on one kept-alive connection, with as little of its own as Python's library allows."""

    def __init__(self, url: str, template: str, isolation: str = "database") -> None:
        where = urlsplit(url)
        self._connection = http.client.HTTPConnection(where.hostname or "", where.port)
        self._connection.connect()
        self._body = json.dumps({"template": template, "isolation": isolation})

    def acquire(self) -> str:
        """Lease; its id."""
        self._connection.request("POST", "/v1/leases", self._body, {"content-type": "application/json"})
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status != http.client.CREATED:
            raise RuntimeError(f"acquire: {answer.status} {content!r}")
        lease: str = json.loads(content)["id"]
        return lease

    def close(self) -> None:
        """Hang up."""
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
