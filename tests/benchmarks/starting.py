"""Section ``starting``: acquire when ready, memory, the start of the service, and the cost of a warm ``pytest`` run."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import httpx

from tests.benchmarks.results import Findings, Run, Table, milliseconds, percentile
from tests.benchmarks.running import (
    DATA_LOCATION,
    TABLES,
    PlainClient,
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

TEMPLATE = "bench"


@dataclass(frozen=True, slots=True)
class Effort:
    """Amount of measurement."""

    acquires: int = 2_000
    starts: int = 5
    pytest_runs: int = 9
    many: int = 200
    pool: int = 50


QUICK = Effort(acquires=20, starts=1, pytest_runs=1, many=10, pool=10)


@dataclass(frozen=True, slots=True)
class Figure:
    """One measurement, in seconds or bytes, and as text for readers."""

    what: str
    text: str
    goal: str
    numbers: dict[str, float]


def measure(run: Run) -> Findings:
    """Measure one figure after the other. No figure is compared with another."""
    effort = QUICK if run.quick else Effort()
    figures: list[Figure] = []
    with data_directory() as data, serving(data) as served, served.client() as client:
        register(client, TEMPLATE, schema())
        figures += _acquire_when_ready(client, served.url, effort)
        run.calibrate()
        register(client, "many", schema())
        pool = open_pool(client, "many")
        resize(client, pool, effort.many)
        wait_until_ready(client, pool, effort.many)
        size = served.memory_bytes()
        what = f"memory of the service with {effort.many} additional databases"
        figures.append(Figure(what, f"{size / 2**20:.0f} MiB", "< 150 MB", {"memory_bytes": size}))
    figures.append(_start_to_first_lease(effort, warm=False))
    run.calibrate()
    figures.append(_start_to_first_lease(effort, warm=True))
    run.calibrate()
    figures.append(_warm_pytest(effort))
    return Findings(
        settings=[
            (
                f"Embedded PostgreSQL and Redis, default settings, {DATA_LOCATION}. A template of {TABLES} empty "
                "tables."
            )
        ],
        tables=[
            Table(
                caption="",
                head=["measurement", "measured", "goal"],
                rows=[[one.what, one.text, one.goal] for one in figures],
            )
        ],
        figures={name: number for one in figures for name, number in one.numbers.items()},
    )


def _acquire_when_ready(client: httpx.Client, url: str, effort: Effort) -> list[Figure]:
    """Time acquires of ready databases: one caller, one kept-alive connection, and no reset in the meantime."""
    pool = open_pool(client, TEMPLATE)
    resize(client, pool, effort.pool)
    plain = PlainClient(url, TEMPLATE)

    def by_httpx() -> str:
        lease: str = client.post("/v1/leases", json={"template": TEMPLATE}).json()["id"]
        return lease

    callers: list[tuple[str, Callable[[], str]]] = [("http.client", plain.acquire), ("httpx", by_httpx)]
    taken: dict[str, list[float]] = {name: [] for name, _ in callers}
    while len(taken["httpx"]) < effort.acquires:
        for name, acquire_lease in callers:
            wait_until_ready(client, pool, effort.pool)
            held = []
            for _ in range(effort.pool - 5):
                began = time.perf_counter()
                held.append(acquire_lease())
                taken[name].append(time.perf_counter() - began)
            for lease in held:
                release(client, lease)
    plain.close()
    return [
        Figure(
            f"acquire when ready, one caller, by {name}",
            f"p50 {milliseconds(percentile(one, 50))} ms, p99 {milliseconds(percentile(one, 99))} ms "
            f"({len(one)} calls)",
            "p50 ≤ 1.5 ms, p99 ≤ 8 ms",
            {f"acquire.{name}.p{percent}_seconds": percentile(one, percent) for percent in (50, 99)},
        )
        for name, one in taken.items()
    ]


def _start_to_first_lease(effort: Effort, *, warm: bool) -> Figure:
    """Time from starting the command to the first lease."""
    seconds = []
    for _ in range(effort.starts):
        with data_directory() as data:
            if warm:
                with serving(data) as served, served.client() as client:
                    register(client, TEMPLATE, schema())
                    open_pool(client, TEMPLATE)
            began = time.perf_counter()
            with serving(data) as served, served.client() as client:
                if not warm:
                    register(client, TEMPLATE, schema())
                lease = acquire(client, TEMPLATE)
                seconds.append(time.perf_counter() - began)
                release(client, lease["id"])
    name, goal = (
        ("warm (template there)", "≤ 1 s") if warm else ("cold (empty machine, template built)", "≤ 5 s")
    )
    return Figure(
        f"`freshdb serve` to first lease, {name}",
        f"median {median(seconds):.2f} s of {effort.starts}",
        goal,
        {f"start.{'warm' if warm else 'cold'}_seconds": median(seconds)},
    )


def _warm_pytest(effort: Effort) -> Figure:
    """Extra time of a warm run of one test with a database, compared with the same test without."""
    with tempfile.TemporaryDirectory() as project, data_directory() as data:
        root = Path(project)
        (root / "pyproject.toml").write_text('[tool.freshdb]\ntemplate = "bench"\nsql = ["schema.sql"]\n')
        (root / "schema.sql").write_text(schema())
        (root / "test_without.py").write_text("def test_it() -> None:\n    assert True\n")
        (root / "test_with.py").write_text(
            textwrap.dedent("""
                def test_it(freshdb) -> None:
                    assert freshdb.url
            """)
        )
        environment = {**os.environ, "FRESHDB_DATA": str(data)}

        def pytest_seconds(file: str) -> float:
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
            pytest_seconds("test_with.py")
            pytest_seconds("test_without.py")
            pairs = [
                (pytest_seconds("test_with.py"), pytest_seconds("test_without.py"))
                for _ in range(effort.pytest_runs)
            ]
        finally:
            subprocess.run(
                [sys.executable, "-m", "freshdb", "stop"], env=environment, check=False, capture_output=True
            )
    more = median(with_it - without for with_it, without in pairs)
    plain = median(without for _, without in pairs)
    return Figure(
        "a warm `pytest` run of one test with a database",
        f"median {more * 1e3:.0f} ms more than {plain * 1e3:.0f} ms ({effort.pytest_runs} pairs)",
        "≤ 300 ms more",
        {"warm_pytest.more_seconds": more},
    )
