"""``make bench``: measures freshdb on this machine and writes ``docs/benchmarks.md``. Nobody types a figure by hand.

Each measurement starts what it needs: the real command, on embedded servers, with their data in memory where the system
offers that (file creation on disks varies tenfold with their history).
"""

from __future__ import annotations

import http.client
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil

DOCUMENT = Path(__file__).parents[2] / "docs" / "benchmarks.md"
TABLES = 30
ACQUIRES = 2_000
STARTS = 5
PYTEST_RUNS = 9
MANY = 200

SCHEMA = "\n".join(
    f"create table t{n} (id bigserial primary key, name text not null default '', at timestamptz default now());"
    f"create index on t{n} (name);"
    for n in range(TABLES)
)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: what was measured, the figure, what it should be."""

    what: str
    figure: str
    goal: str = ""


@dataclass(frozen=True, slots=True)
class Served:
    """A service that this run started."""

    url: str
    process: subprocess.Popen[bytes]
    seconds_to_ready: float


@contextmanager
def serving(data: Path, **settings: str) -> Iterator[Served]:
    """Run ``freshdb serve`` with everything embedded."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FRESHDB_")}
    environment |= {f"FRESHDB_{name.upper()}": value for name, value in settings.items()}
    began = time.perf_counter()
    with (data / "bench.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "freshdb_service", "--data", str(data), "--port", "0"],
            env=environment,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
    announced = data / "service.json"
    while not announced.exists():
        if process.poll() is not None:
            raise RuntimeError((data / "bench.log").read_text())
        time.sleep(0.002)
    try:
        yield Served(json.loads(announced.read_text())["url"], process, time.perf_counter() - began)
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def data_directory() -> Iterator[Path]:
    """A directory for embedded servers, in memory if possible."""
    memory = Path("/dev/shm")  # noqa: S108 - mkdtemp
    directory = Path(
        tempfile.mkdtemp(prefix="freshdb-bench-", dir=memory if os.access(memory, os.W_OK) else None)
    )
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def register(client: httpx.Client, name: str = "bench") -> None:
    """Make the template that everything here leases."""
    answer = client.post("/v1/templates", json={"name": name, "sql": [SCHEMA], "wait_seconds": 60})
    answer.raise_for_status()


def ready(client: httpx.Client, pool_id: str, number: int) -> None:
    """Wait until so many databases are ready."""
    while client.get(f"/v1/pools/{pool_id}").json()["databases"].get("ready", 0) < number:
        time.sleep(0.05)


def percentiles(seconds: list[float]) -> str:
    """p50 and p99, in milliseconds."""
    cuts = statistics.quantiles(seconds, n=100)
    return f"p50 {cuts[49] * 1e3:.2f} ms, p99 {cuts[98] * 1e3:.2f} ms ({len(seconds)} calls)"


def acquire_when_ready(client: httpx.Client, url: str) -> list[Row]:
    """Acquire with a ready database, one caller, one kept-alive connection; the janitor works beside it."""
    first = client.post("/v1/leases", json={"template": "bench", "wait_seconds": 60}).json()
    pool = first["pool_id"]
    client.delete(f"/v1/leases/{first['id']}").raise_for_status()
    size = 50
    client.patch(f"/v1/pools/{pool}", json={"min_ready": size, "max_size": size}).raise_for_status()
    rows = []
    body = json.dumps({"template": "bench"})
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port)
    connection.connect()

    def plainly() -> str:
        connection.request("POST", "/v1/leases", body, {"content-type": "application/json"})
        lease: str = json.loads(connection.getresponse().read())["id"]
        return lease

    def by_httpx() -> str:
        lease: str = client.post("/v1/leases", json={"template": "bench"}).json()["id"]
        return lease

    callers: list[tuple[str, Callable[[], str]]] = [("http.client", plainly), ("httpx", by_httpx)]
    for name, acquire in callers:
        taken: list[float] = []
        while len(taken) < ACQUIRES:
            ready(client, pool, size)
            held = []
            for _ in range(size - 5):
                began = time.perf_counter()
                held.append(acquire())
                taken.append(time.perf_counter() - began)
            for lease in held:
                client.delete(f"/v1/leases/{lease}").raise_for_status()
        rows.append(
            Row(f"acquire when ready, one caller, by {name}", percentiles(taken), "p50 ≤ 1.5 ms, p99 ≤ 8 ms")
        )
    return rows


def start_to_first_lease(*, warm: bool) -> Row:
    """From starting the command to holding a first lease."""
    seconds = []
    for _ in range(STARTS):
        with data_directory() as data:
            if warm:
                with serving(data) as served, httpx.Client(base_url=served.url, timeout=60) as client:
                    register(client)
                    first_lease(client)
            began = time.perf_counter()
            with serving(data) as served, httpx.Client(base_url=served.url, timeout=60) as client:
                if not warm:
                    register(client)
                first_lease(client)
                seconds.append(time.perf_counter() - began)
    name, goal = (
        ("warm (template there)", "≤ 1 s") if warm else ("cold (empty machine, template built)", "≤ 5 s")
    )
    return Row(
        f"`freshdb serve` to first lease, {name}",
        f"median {statistics.median(seconds):.2f} s of {STARTS}",
        goal,
    )


def first_lease(client: httpx.Client) -> None:
    """Acquire and release."""
    lease = client.post("/v1/leases", json={"template": "bench", "wait_seconds": 60})
    lease.raise_for_status()
    client.delete(f"/v1/leases/{lease.json()['id']}").raise_for_status()


def memory(client: httpx.Client, process: subprocess.Popen[bytes]) -> Row:
    """Memory of the service's process with many databases."""
    register(client, "many")
    first = client.post("/v1/leases", json={"template": "many", "wait_seconds": 60}).json()
    client.delete(f"/v1/leases/{first['id']}")
    sizes = {"min_ready": MANY, "max_size": MANY}
    client.patch(f"/v1/pools/{first['pool_id']}", json=sizes).raise_for_status()
    ready(client, first["pool_id"], MANY)
    mib = psutil.Process(process.pid).memory_info().rss / 2**20
    return Row(f"memory of the service with {MANY} databases more", f"{mib:.0f} MiB", "< 150 MB")


def warm_pytest() -> Row:
    """What a warm run of one test with a database costs over the same test without."""
    with tempfile.TemporaryDirectory() as project, data_directory() as data:
        root = Path(project)
        (root / "pyproject.toml").write_text('[tool.freshdb]\ntemplate = "bench"\nsql = ["schema.sql"]\n')
        (root / "schema.sql").write_text(SCHEMA)
        (root / "test_without.py").write_text("def test_it() -> None:\n    assert True\n")
        (root / "test_with.py").write_text(
            textwrap.dedent("""
                def test_it(freshdb) -> None:
                    assert freshdb.url
            """)
        )
        environment = {**os.environ, "FRESHDB_DATA": str(data)}

        def run(file: str) -> float:
            began = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "pytest", "-q", file],
                cwd=root,
                env=environment,
                check=True,
                capture_output=True,
            )
            return time.perf_counter() - began

        try:
            run("test_with.py")
            run("test_without.py")
            pairs = [(run("test_with.py"), run("test_without.py")) for _ in range(PYTEST_RUNS)]
        finally:
            subprocess.run(
                [sys.executable, "-m", "freshdb", "stop"],
                env=environment,
                check=False,
                capture_output=True,
            )
        more = statistics.median(with_it - without for with_it, without in pairs)
        plain = statistics.median(without for _, without in pairs)
        figure = f"median {more * 1e3:.0f} ms more than {plain * 1e3:.0f} ms ({PYTEST_RUNS} pairs)"
        return Row("a warm `pytest` run of one test with a database", figure, "≤ 300 ms more")


def machine() -> str:
    """What it was measured on."""
    packages = ", ".join(
        f"{name} {version(name)}"
        for name in ("fastapi", "uvicorn", "sqlalchemy", "asyncpg", "redis", "httpx")
    )
    memory_gib = psutil.virtual_memory().total / 2**30
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {memory_gib:.0f} GiB, {platform.system()} "
        f"{platform.machine()}, Python {platform.python_version()}, {packages}; "
        "embedded PostgreSQL and Redis, defaults, data in memory; "
        f"template of {TABLES} empty tables"
    )


def main() -> None:
    """Measure, print, write."""
    rows: list[Row] = []

    def note(*more: Row) -> None:
        for row in more:
            print(f"{row.what}: {row.figure}  [{row.goal}]", flush=True)  # noqa: T201 - a command prints
            rows.append(row)

    with (
        data_directory() as data,
        serving(data) as served,
        httpx.Client(base_url=served.url, timeout=60) as client,
    ):
        register(client)
        note(*acquire_when_ready(client, served.url))
        note(memory(client, served.process))
    note(start_to_first_lease(warm=False), start_to_first_lease(warm=True), warm_pytest())
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`; run it to get the figures of your machine.",
        "",
        machine() + ".",
        "",
        "| what | measured | goal |",
        "|---|---|---|",
        *(f"| {row.what} | {row.figure} | {row.goal} |" for row in rows),
        "",
    ]
    DOCUMENT.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
