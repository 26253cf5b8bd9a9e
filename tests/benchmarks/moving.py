"""Section ``moving``: a suite of 200 tests that creates and drops its schema for each test, and its steps towards leases."""

from __future__ import annotations

import asyncio
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median

from freshdb_service.embedded import EmbeddedPostgres
from tests.benchmarks.results import Findings, Run, Table, milliseconds
from tests.benchmarks.running import DATA_LOCATION, data_directory, serving
from tests.legacy_suite.running import make_project, run_suite, shared_database

ROUNDS = 5
STEPS = (
    ("before", 0, "before: create and drop the schema for each test"),
    ("leases", 0, "a lease for each test"),
    ("leases", 2, "a lease for each test, `-n 2`"),
    ("rollback", 0, "a lease for the module, rolled back, and for tests of sequences a lease each"),
    ("rollback", 2, "the same, `-n 2`"),
)


def measure(run: Run) -> Findings:
    """Run all steps, alternating, on one server."""
    tests = 8 if run.quick else 200
    taken: dict[str, list[float]] = defaultdict(list)
    with data_directory() as data, tempfile.TemporaryDirectory() as directory:
        project = Path(directory)
        make_project(project)
        server = EmbeddedPostgres(data / "bench-postgres")
        dsn = asyncio.run(server.start())
        try:
            with (
                shared_database(dsn) as url,
                serving(data, postgres=f"bench={dsn}", adopt="bench") as served,
            ):
                run_suite(project, "leases", served.url, url, tests=4)  # not measured: builds the template
                for number in range(1 if run.quick else ROUNDS):
                    for step, workers, label in STEPS[number % len(STEPS) :] + STEPS[: number % len(STEPS)]:
                        taken[label].append(
                            run_suite(project, step, served.url, url, tests=tests, workers=workers)
                        )
                        run.log_progress(f"round {number + 1}: {label}: {taken[label][-1]:.2f} s")
                    run.calibrate()
        finally:
            asyncio.run(server.stop())
    first = median(taken[STEPS[0][2]])
    return Findings(
        settings=[
            (
                f"{tests} tests of a FastAPI application over 30 tables and a trigger (`tests/legacy_suite`), the same at "
                f"every step, {ROUNDS} rounds, alternating. Whole runs of pytest, with its start. "
                "Templates are built and the service is warm."
            ),
            f"One embedded PostgreSQL, default settings, {DATA_LOCATION}.",
        ],
        tables=[
            Table(
                caption="",
                head=["the suite", "whole run, s", "per test, ms", "share of the time before"],
                rows=[
                    [
                        label,
                        f"{median(taken[label]):.2f} ({min(taken[label]):.2f} to {max(taken[label]):.2f})",
                        milliseconds(median(taken[label]) / tests),
                        f"{median(taken[label]) / first:.0%}",
                    ]
                    for _, _, label in STEPS
                ],
            )
        ],
        figures={f"{step}.{workers}.seconds": median(taken[label]) for step, workers, label in STEPS},
    )
