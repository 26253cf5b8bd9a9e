"""Section ``toolkit``: cost of cleaning for a test that has a connection, by cleanup in place or by a rollback.

A test writes to 3 of 30 tables, which are linked by foreign keys, and uses their sequences.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from statistics import median
from time import perf_counter

from sqlalchemy import Connection, Engine, NullPool, create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

from freshdb.toolkit.cleanup import AsyncCleanup, Cleanup
from freshdb.toolkit.sessions import TestSessionFactory
from freshdb_service.embedded import EmbeddedPostgres
from tests.benchmarks.results import Findings, Run, Table, milliseconds, percentile
from tests.benchmarks.running import DATA_LOCATION, TABLES, data_directory, schema

CLEANUP_GOAL_SECONDS = 0.002
ROLLBACK_GOAL_SECONDS = 0.001
_NOT_COUNTED = 20
"""The first runs are not counted, because drivers prepare a statement after a few uses."""


def measure(run: Run) -> Findings:
    """Measure both, alternating."""
    with data_directory() as data:
        server = EmbeddedPostgres(data / "toolkit")
        dsn = asyncio.run(server.start()).replace("postgresql", "postgresql+psycopg", 1)
        engine = create_engine(dsn)
        try:
            with engine.begin() as connection:
                connection.execute(text(schema()))
            return _measured(run, engine, 5 if run.quick else 500)
        finally:
            engine.dispose()
            asyncio.run(server.stop())


def _measured(run: Run, engine: Engine, turns: int) -> Findings:
    samples: dict[str, list[float]] = {}
    random_source = random.Random(5)  # noqa: S311 - which tables
    with engine.connect() as connection:
        cleanup = Cleanup(connection)
        cleanup.note()
        taken = samples.setdefault("cleanup in place, psycopg", [])
        run.log_progress("cleanup in place")
        for _ in range(turns + _NOT_COUNTED):
            _touch(connection, random_source.randrange(2, TABLES))
            connection.commit()
            taken.append(_seconds(cleanup.reset))
        cleanup.check()
    run.calibrate()
    samples["cleanup in place, asyncpg, awaited"] = asyncio.run(
        _awaited(engine, turns + _NOT_COUNTED, random_source)
    )
    run.calibrate()
    run.log_progress("rollback")
    plain, rolled_back = samples.setdefault("no isolation", []), samples.setdefault("rollback session", [])
    for _ in range(turns + _NOT_COUNTED):
        plain.append(_seconds(lambda: _plain(engine)))
        rolled_back.append(_seconds(lambda: _rolled_back(engine)))
    run.calibrate()
    counted = {name: found[_NOT_COUNTED:] for name, found in samples.items()}
    overhead = median(
        one - other for one, other in zip(counted["rollback session"], counted["no isolation"], strict=True)
    )
    rows = [
        [
            name,
            milliseconds(median(found)),
            milliseconds(percentile(found, 95)),
            _at_most(CLEANUP_GOAL_SECONDS) if name.startswith("cleanup") else "",
        ]
        for name, found in counted.items()
    ]
    rows.append(
        ["overhead of the rollback session", milliseconds(overhead), "", _at_most(ROLLBACK_GOAL_SECONDS)]
    )
    return Findings(
        settings=[
            f"Embedded PostgreSQL, default settings, {DATA_LOCATION}. {TABLES} empty tables, of which a test writes to 3.",
            (
                f"{turns} turns each. The test's own work is not counted, except in the last three: there a session reads "
                "one row and commits. The session is new each time, on an engine that keeps its connection."
            ),
        ],
        tables=[Table(caption="", head=["measurement", "ms, median", "ms, p95", "goal"], rows=rows)],
        figures={
            "cleanup_seconds": median(counted["cleanup in place, psycopg"]),
            "rollback_overhead_seconds": overhead,
        },
    )


async def _awaited(engine: Engine, turns: int, random_source: random.Random) -> list[float]:
    async_engine = create_async_engine(engine.url.set(drivername="postgresql+asyncpg"), poolclass=NullPool)
    taken = []
    async with async_engine.connect() as connection:
        cleanup = AsyncCleanup(connection)
        await cleanup.note()
        for _ in range(turns):
            last = random_source.randrange(2, TABLES)
            await connection.run_sync(_touch, last)
            await connection.commit()
            began = perf_counter()
            await cleanup.reset()
            taken.append(perf_counter() - began)
        await cleanup.check()
    await async_engine.dispose()
    return taken


def _touch(connection: Connection, last: int) -> None:
    for n in (last - 2, last - 1, last):
        parent = f", (SELECT max(id) FROM t{n - 1})" if n else ""
        connection.exec_driver_sql(
            f"INSERT INTO t{n} (name{', parent_id' if n else ''}) VALUES ('x'{parent})"
        )


def _plain(engine: Engine) -> None:
    with Session(engine) as session:
        session.execute(text("SELECT 1 FROM t1"))
        session.commit()


def _rolled_back(engine: Engine) -> None:
    with (
        TestSessionFactory(engine, test="tests/test_it.py::test_it") as factory,
        factory.session_maker() as session,
    ):
        session.execute(text("SELECT 1 FROM t1"))
        session.commit()


def _at_most(seconds: float) -> str:
    return f"≤ {seconds * 1000:g} ms"


def _seconds(call: Callable[[], object]) -> float:
    began = perf_counter()
    call()
    return perf_counter() - began
