"""Section ``suite``: cost of isolation for a suite of small tests that commit, by method."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psycopg

from freshdb_service.embedded import EmbeddedPostgres
from tests.benchmarks.results import Findings, Run, Table, milliseconds
from tests.benchmarks.running import DATA_LOCATION, ROOT, TABLES, data_directory, serving
from tests.benchmarks.suites.tables import ddl

WORKERS = 2
GOAL_MS = 5.0
COMPETITOR = ("pytest-postgresql==10.0.0", "mirakuru==3.1.0", "port-for==1.1.1")


@dataclass(frozen=True, slots=True)
class Variant:
    """One method of isolation: the module with its fixtures, and the plugin that they need."""

    module: str
    label: str
    plugins: tuple[str, ...] = ()
    goal: str = ""


BASELINE = Variant("nothing", "no isolation: one database, an engine per worker")
PYTEST_POSTGRESQL = Variant(
    "pytest_postgresql_function", "`pytest-postgresql`", ("pytest_postgresql.plugin",)
)
_FRESHDB = ("freshdb.pytest_plugin",)
VARIANTS = (
    BASELINE,
    Variant("connection", "no isolation, but a connection per test: no database per test costs less"),
    Variant("freshdb_one_engine", "freshdb, an engine per worker", _FRESHDB, f"≤ {GOAL_MS:g}"),
    Variant("freshdb_function", "freshdb, an engine per test", _FRESHDB),
    Variant(
        "freshdb_cleanup",
        "freshdb, a lease per worker, cleaned in place by the toolkit, connections kept",
        (*_FRESHDB, "freshdb.toolkit.fixtures"),
        f"≤ {GOAL_MS:g}",
    ),
    Variant("rollback", "rollback of an outer transaction (SQLAlchemy), no commits"),
    Variant("clone", "a clone of a template per test (`file_copy`), an engine per test"),
    PYTEST_POSTGRESQL,
    Variant("create_all", "`create_all` and `drop_all` per test"),
)


@dataclass(frozen=True, slots=True)
class Effort:
    """Amount of measurement."""

    tests: int = 300
    rounds: int = 7


QUICK = Effort(tests=20, rounds=1)


def measure(run: Run) -> Findings:
    """Run all variants, alternating, on one server."""
    effort = QUICK if run.quick else Effort()
    with (
        data_directory() as data,
        _postgres(data) as dsn,
        tempfile.TemporaryDirectory() as project,
        serving(data, postgres=f"bench={dsn}", adopt="bench") as served,
    ):
        root = Path(project)
        _write(root, dsn)
        variants = [one for one in VARIANTS if one is not PYTEST_POSTGRESQL or _installed(run, root)]
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("FRESHDB_")},
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONPATH": f"{ROOT}{os.pathsep}{root / 'competitors'}",
            "FRESHDB_URL": served.url,
            "BENCH_POSTGRES": dsn,
            "BENCH_SCHEMA": str(root / "schema.sql"),
            "BENCH_TESTS": str(effort.tests),
        }
        for variant in variants:  # not measured: builds templates, compiles modules
            _seconds(root, environment, variant, effort.tests)
        taken: dict[str, list[float]] = defaultdict(list)
        for number in range(effort.rounds):
            first = number % len(variants)
            for variant in variants[first:] + variants[:first]:
                taken[variant.module].append(_seconds(root, environment, variant, effort.tests))
                run.log_progress(f"round {number + 1}: {variant.module} {taken[variant.module][-1]:.2f} s")
            run.calibrate()
    return _findings(effort, taken)


def _findings(effort: Effort, taken: dict[str, list[float]]) -> Findings:
    rows = []
    figures: dict[str, float] = {}
    for variant in VARIANTS:
        if variant.module not in taken:
            rows.append([variant.label, "not installed: no package index", "", "", ""])
            continue
        seconds = median(taken[variant.module])
        figures[f"{variant.module}.seconds"] = seconds
        more = [
            (ours - without) / effort.tests
            for ours, without in zip(taken[variant.module], taken[BASELINE.module], strict=True)
        ]
        if variant is BASELINE:
            rows.append([variant.label, f"{seconds:.2f}", "", "", ""])
            continue
        figures[f"{variant.module}.more_per_test_seconds"] = median(more)
        rows.append(
            [
                variant.label,
                f"{seconds:.2f}",
                f"{milliseconds(median(more))} ({milliseconds(min(more))} to {milliseconds(max(more))})",
                milliseconds(median(more) * WORKERS),
                variant.goal,
            ]
        )
    return Findings(
        settings=[
            (
                f"{effort.tests} tests, each with two commits into 3 of {TABLES} tables by SQLAlchemy and "
                f"psycopg, `pytest -n {WORKERS}`, {effort.rounds} rounds, alternating. Templates are "
                "built and the service is warm."
            ),
            (
                f"One PostgreSQL for all (embedded, default settings, {DATA_LOCATION}). Each run loads only the plugins "
                f"that it needs. {COMPETITOR[0].replace('==', ' ')}."
            ),
            (
                "More per test: the time of the whole run less that of the run without isolation in the same round, "
                f"divided by the number of tests. With {WORKERS} workers at a time, a test of one worker takes "
                f"{WORKERS} times as much longer."
            ),
            "Rollback is no isolation for tests that must commit, use several connections, or look at sequences.",
        ],
        tables=[
            Table(
                caption="",
                head=["isolation", "whole run, s", "more per test, ms", "of one worker, ms", "goal"],
                rows=rows,
            )
        ],
        figures=figures,
    )


def _seconds(root: Path, environment: dict[str, str], variant: Variant, tests: int) -> float:
    """Run the suite once. Return the seconds."""
    plugins = ("xdist", *variant.plugins, f"tests.benchmarks.suites.{variant.module}")
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-n", str(WORKERS), "--noconftest", "-p", "no:cacheprovider"),
        *("-c", str(root / "pyproject.toml")),
        *(word for plugin in plugins for word in ("-p", plugin)),
        str(ROOT / "tests" / "benchmarks" / "suites" / "cases.py"),
    ]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    taken = time.perf_counter() - began
    if done.returncode or not re.search(rf"\b{tests} passed", done.stdout):
        raise RuntimeError(f"{variant.module}:\n{done.stdout}\n{done.stderr}")
    return taken


def _write(root: Path, dsn: str) -> None:
    """Write the project, and create the databases for variants that create none."""
    (root / "pyproject.toml").write_text(
        '[tool.freshdb]\ntemplate = "suite"\nsql = ["schema.sql"]\n[tool.pytest.ini_options]\nfilterwarnings = ["error"]\n'
    )
    (root / "schema.sql").write_text(ddl())
    with psycopg.connect(dsn, autocommit=True) as connection:
        for name in ("bench_shared", "bench_template"):
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
            with psycopg.connect(f"{dsn.rpartition('/')[0]}/{name}", autocommit=True) as inside:
                inside.execute(ddl().encode())


def _installed(run: Run, root: Path) -> bool:
    """Install the competitor for this run only. Return ``False`` if no package index is available."""
    command = [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"),
        *("--target", str(root / "competitors"), *COMPETITOR),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        run.log_progress(f"without {COMPETITOR[0]}: {done.stderr.strip()}")
    return done.returncode == 0


@contextmanager
def _postgres(data: Path) -> Iterator[str]:
    server = EmbeddedPostgres(data / "bench-postgres")
    dsn = asyncio.run(server.start())
    try:
        yield dsn
    finally:
        asyncio.run(server.stop())
