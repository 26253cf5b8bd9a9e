"""Procrastinate's job queue. Each test has its own clean database, with procrastinate's schema."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import procrastinate
import psycopg
import pytest
from procrastinate.testing import InMemoryConnector

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from procrastinate.tasks import Task

    from freshdb.pytest_plugin import LeasedDatabase

pytestmark = pytest.mark.freshdb(template="procrastinate")

app = procrastinate.App(connector=InMemoryConnector())  # each test replaces the connector by its own database


@app.task(queue="letters")
def send_letter(to: str) -> str:
    return f"letter to {to}"


@app.task(queue="letters")
def lose_letter(to: str) -> str:
    raise LookupError(to)


@asynccontextmanager
async def opened(database: LeasedDatabase) -> AsyncIterator[procrastinate.App]:
    with app.replace_connector(procrastinate.PsycopgConnector(conninfo=database.url)) as current:
        async with current.open_async():
            yield current


def defer(database: LeasedDatabase, *names: str, task: Task[..., str, ...] = send_letter) -> None:
    async def run() -> None:
        async with opened(database):
            for name in names:
                await task.defer_async(to=name)

    asyncio.run(run())


def work(database: LeasedDatabase) -> None:
    async def run() -> None:
        async with opened(database) as current:
            await current.run_worker_async(wait=False, listen_notify=False, install_signal_handlers=False)

    asyncio.run(run())


def jobs(database: LeasedDatabase) -> list[tuple[int, str, str]]:
    with psycopg.connect(database.url) as connection:
        query = "SELECT id, args ->> 'to', status::text FROM procrastinate_jobs ORDER BY id"
        return [(int(row[0]), str(row[1]), str(row[2])) for row in connection.execute(query)]


def test_schema_exists(freshdb: LeasedDatabase) -> None:
    with psycopg.connect(freshdb.url) as connection:
        rows = connection.execute("SELECT to_regclass('procrastinate_jobs')::text").fetchall()
    assert rows == [("procrastinate_jobs",)]


@pytest.mark.parametrize("name", ["Ada", "Grace", "Mary", "Radia"])
def test_deferred_job_is_the_first_of_a_clean_database(freshdb: LeasedDatabase, name: str) -> None:
    assert jobs(freshdb) == []
    defer(freshdb, name)
    assert jobs(freshdb) == [(1, name, "todo")]


def test_worker_runs_the_job(freshdb: LeasedDatabase) -> None:
    defer(freshdb, "Ada", "Grace")
    work(freshdb)
    assert jobs(freshdb) == [(1, "Ada", "succeeded"), (2, "Grace", "succeeded")]


def test_job_that_raises_has_failed(freshdb: LeasedDatabase) -> None:
    defer(freshdb, "Ada", task=lose_letter)
    work(freshdb)
    assert jobs(freshdb) == [(1, "Ada", "failed")]


def test_each_step_of_a_job_is_an_event(freshdb: LeasedDatabase) -> None:
    defer(freshdb, "Ada")
    work(freshdb)
    with psycopg.connect(freshdb.url) as connection:
        rows = connection.execute("SELECT type::text FROM procrastinate_events ORDER BY id").fetchall()
    assert rows == [("deferred",), ("started",), ("succeeded",)]


def test_test_can_break_the_schema(freshdb: LeasedDatabase) -> None:
    with psycopg.connect(freshdb.url, autocommit=True) as connection:
        connection.execute("DROP TABLE procrastinate_jobs CASCADE")
        connection.execute("CREATE TABLE rubbish (id int)")


def test_next_test_has_an_intact_schema(freshdb: LeasedDatabase) -> None:
    with psycopg.connect(freshdb.url) as connection:
        assert connection.execute("SELECT to_regclass('rubbish')").fetchone() == (None,)
    assert jobs(freshdb) == []


@pytest.mark.freshdb(isolation="schema")
class TestInASchema:
    """The same tests with isolation ``schema``: each has its own schema in a shared database."""

    def test_deferred_job_is_the_first(self, freshdb: LeasedDatabase) -> None:
        assert freshdb.schema is not None
        defer(freshdb, "Ada")
        assert jobs(freshdb) == [(1, "Ada", "todo")]

    def test_worker_runs_the_job(self, freshdb: LeasedDatabase) -> None:
        defer(freshdb, "Ada")
        work(freshdb)
        assert jobs(freshdb) == [(1, "Ada", "succeeded")]


class TestOneDatabaseForAClass:
    """Tests that depend on each other share one database."""

    def test_job_is_deferred(self, freshdb_class: LeasedDatabase) -> None:
        defer(freshdb_class, "Ada")
        assert jobs(freshdb_class) == [(1, "Ada", "todo")]

    def test_job_of_the_previous_test_still_exists(self, freshdb_class: LeasedDatabase) -> None:
        assert jobs(freshdb_class) == [(1, "Ada", "todo")]
