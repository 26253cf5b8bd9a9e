"""Section ``guard``: cost to a suite of the guard, which allows connections to its leases only."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from statistics import median

import psycopg
from sqlalchemy import make_url

from freshdb.credentials import Credentials
from freshdb.toolkit.guard import Guard
from tests.benchmarks import suite
from tests.benchmarks.results import Findings, Run, Table, milliseconds
from tests.benchmarks.running import DATA_LOCATION, ROOT, data_directory, serving

GOAL_PERCENT = 1.0
CONNECTIONS = 200
VARIANT = suite.Variant("freshdb_function", "freshdb, an engine per test", ("freshdb.pytest_plugin",))


def measure(run: Run) -> Findings:
    """Run the suite, then open connections, each with and without the guard, alternating."""
    effort = suite.QUICK if run.quick else suite.Effort(rounds=25)
    with (
        data_directory() as data,
        suite._postgres(data) as dsn,
        tempfile.TemporaryDirectory() as project,
        serving(data, postgres=f"bench={dsn}", adopt="bench") as served,
    ):
        root = Path(project)
        suite._write(root, dsn)
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("FRESHDB_")},
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONPATH": str(ROOT),
            "FRESHDB_URL": served.url,
            "BENCH_POSTGRES": dsn,
            "BENCH_TESTS": str(effort.tests),
        }
        suite._seconds(root, environment, VARIANT, effort.tests)  # not measured: builds the template
        taken: dict[str, list[float]] = {"off": [], "on": []}
        for number in range(effort.rounds):
            for mode in ("off", "on") if number % 2 else ("on", "off"):
                taken[mode].append(
                    suite._seconds(root, environment | {"FRESHDB_GUARD": mode}, VARIANT, effort.tests)
                )
                run.log_progress(f"round {number + 1}: guard {mode} {taken[mode][-1]:.2f} s")
            run.calibrate()
        without, with_it, checks = _connection_seconds(dsn, 10 if run.quick else CONNECTIONS)
    increases = [(on / off - 1) * 100 for on, off in zip(taken["on"], taken["off"], strict=True)]
    share = checks / without * 100
    return Findings(
        settings=[
            (
                f"The suite of section `suite` ({effort.tests} tests, an engine and so a connection each, "
                f"`-n {suite.WORKERS}`), with `FRESHDB_GUARD` on and off, alternating, {effort.rounds} rounds. "
                "Median of the rounds' ratios."
            ),
            (
                "One connection: psycopg opens one to a lease, with and without a guard, alternating, median of "
                f"{CONNECTIONS}. The guard's own time is measured separately, because the connections vary by more."
            ),
            f"One embedded PostgreSQL, default settings, {DATA_LOCATION}.",
        ],
        tables=[
            Table(
                caption="",
                head=["measurement", "guard off", "guard on", "more", "goal"],
                rows=[
                    [
                        "the suite, s",
                        f"{median(taken['off']):.2f}",
                        f"{median(taken['on']):.2f}",
                        f"{median(increases):+.1f} % ({min(increases):+.1f} to {max(increases):+.1f})",
                        f"< {GOAL_PERCENT:g} %",
                    ],
                    [
                        "one connection, ms",
                        milliseconds(without),
                        milliseconds(with_it),
                        f"the guard's own part {milliseconds(checks)} ms: {share:.1f} %",
                        "",
                    ],
                ],
            )
        ],
        figures={"suite.more_percent": median(increases), "connection.more_percent": share},
    )


def _connection_seconds(dsn: str, times: int) -> tuple[float, float, float]:
    url = make_url(dsn)
    lease = Credentials(
        str(url.host), int(url.port or 0), str(url.database), str(url.username), str(url.password)
    )
    with Guard() as guard:
        guard.hold("lease", lease)
        connect = vars(psycopg.Connection.__mro__[1])["_connect_gen"].__func__
        without, with_it, checks = [], [], []
        for _ in range(times):
            with_it.append(_seconds(dsn))
            began = time.perf_counter()
            connect(
                psycopg.Connection, dsn
            ).close()  # closes the generator before it starts: only the guard's check has run
            checks.append(time.perf_counter() - began)
            guard.off()
            without.append(_seconds(dsn))
            guard.on()
    return median(without), median(with_it), median(checks)


def _seconds(dsn: str) -> float:
    began = time.perf_counter()
    psycopg.connect(dsn).close()
    return time.perf_counter() - began
