"""The guard of a test run: a suite cannot connect to the developer's own database."""

from __future__ import annotations

import secrets
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from tests.plugin.suites import Suite
from tests.servers import PostgresServer

APPLICATION = """
import os
from sqlalchemy import NullPool, Column, Integer, MetaData, Table
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

metadata = MetaData()
customer = Table("customer", metadata, Column("id", Integer, primary_key=True))
engine = create_async_engine(os.environ["DATABASE_URL"], poolclass=NullPool)
session_maker = async_sessionmaker(engine)
"""
TESTS = """\
import asyncio
import pytest
from application import metadata, session_maker

async def start_from_nothing():
    async with session_maker() as session:
        connection = await session.connection()
        await connection.run_sync(metadata.drop_all)
        await session.commit()

@pytest.fixture(autouse=True)
def no_tables():
    asyncio.run(start_from_nothing())

def test_one(freshdb):
    pass

def test_two():
    pass
"""


@dataclass
class Development:
    """A developer's database with the table ``customer``, and its URL without the password."""

    url: str
    shown: str

    def has_customer_table(self) -> bool:
        if self.url.startswith("sqlite"):
            with closing(sqlite3.connect(make_url(self.url).database or "")) as file:
                return bool(file.execute("SELECT name FROM sqlite_master WHERE name = 'customer'").fetchall())
        with psycopg.connect(self.url.replace("+asyncpg", "")) as connection:
            return connection.execute("SELECT to_regclass('customer') IS NOT NULL").fetchall() == [(True,)]


@pytest.fixture(params=["postgresql", "sqlite"])
def development(
    request: pytest.FixtureRequest, tmp_path: Path, postgres_18: PostgresServer
) -> Iterator[Development]:
    if request.param == "sqlite":
        file = tmp_path / "development.db"
        with closing(sqlite3.connect(file)) as created, created:
            created.execute("CREATE TABLE customer (id integer PRIMARY KEY)")
        yield Development(f"sqlite+aiosqlite:///{file}", f"sqlite:///{file}")
        return
    with psycopg.connect(postgres_18.dsn, autocommit=True) as server:
        name = f"development_{secrets.token_hex(4)}"  # xdist workers share the server
        server.execute(f"CREATE DATABASE {name}")
        url = make_url(postgres_18.dsn).set(drivername="postgresql+asyncpg", database=name)
        with psycopg.connect(
            url.set(drivername="postgresql").render_as_string(hide_password=False)
        ) as connection:
            connection.execute("CREATE TABLE customer (id integer PRIMARY KEY)")
        shown = f"postgresql://{url.username}@{url.host}:{url.port}/{name}"
        yield Development(url.render_as_string(hide_password=False), shown)
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def dangerous_suite(suite: Suite, development: Development) -> Suite:
    """A suite that imports the application's own ``session_maker``, with the developer's ``DATABASE_URL``."""
    suite.write("application.py", APPLICATION)
    suite.write("test_shop.py", TESTS)
    suite.environment |= {"DATABASE_URL": development.url, "PYTHONPATH": str(suite.directory)}
    return suite


def test_suite_with_the_applications_session_maker_cannot_drop_the_development_database(
    dangerous_suite: Suite, development: Development
) -> None:
    guarded = dangerous_suite.run()
    assert guarded.counts() == {"error": 2}
    assert (
        f"test_shop ({dangerous_suite.directory}/test_shop.py:7) connects to {development.shown} by "
        in guarded.output
    )
    assert f"guard_allow = ['{development.shown}'] in [tool.freshdb]" in guarded.output
    assert development.has_customer_table()

    assert dangerous_suite.run("--freshdb-guard=off").counts() == {"passed": 2}
    assert not development.has_customer_table()  # without the guard, the table is dropped


@pytest.mark.parametrize("development", ["sqlite"], indirect=True)
def test_report_mode_lists_connections_of_all_workers_and_fails_no_test(
    dangerous_suite: Suite, development: Development
) -> None:
    dangerous_suite.run("--freshdb-guard=off")  # workers must not drop the same table at the same time
    reported = dangerous_suite.run("-n2", "--freshdb-guard=report")
    assert reported.counts() == {"passed": 2}
    place = f"test_shop ({dangerous_suite.directory}/test_shop.py:7)"
    offence = f"{place} connects to {development.shown} by SQLAlchemy (aiosqlite)"
    assert "freshdb guard: connections to databases that are not leased" in reported.output
    for test in ("test_one", "test_two"):
        assert f"\n{offence}: not a lease of this process (in test_shop.py::{test})" in reported.output


def test_guard_is_on_before_conftest_is_imported_also_in_workers(suite: Suite) -> None:
    suite.write(
        "conftest.py", "import psycopg\npsycopg.connect('postgresql://app:secret@127.0.0.1:1/shop')\n"
    )
    suite.write("test_it.py", "def test_it():\n    pass\n")
    for arguments in ((), ("-n1",)):
        finished = suite.run(*arguments)
        assert finished.status == pytest.ExitCode.USAGE_ERROR
        assert "conftest.py:2) connects to postgresql://app@127.0.0.1:1/shop by psycopg" in finished.output
        assert "secret@" not in finished.output.replace(
            "'postgresql://app:secret@", ""
        )  # except in the source line


LEASES = """
import asyncio, os
import asyncpg, psycopg, psycopg2, pytest
from sqlalchemy import create_engine
from freshdb import Client
from freshdb.toolkit.guard import NotALease

def connect(url):
    psycopg.connect(url).close()
    psycopg2.connect(url).close()
    async def awaiting():
        await (await asyncpg.connect(url)).close()
    asyncio.run(awaiting())

@pytest.fixture(scope="session")
def client():
    with Client() as client:
        yield client

@pytest.mark.parametrize("isolation", ["database", "schema"])
def test_leases_of_fixtures(request, isolation, freshdb_session, freshdb_module, freshdb_class, freshdb):
    for database in (freshdb_session, freshdb_module, freshdb_class, freshdb):
        connect(database.url)
    old = freshdb.url
    freshdb.reset()
    connect(freshdb.url)

def test_leases_and_builds_of_a_client_of_its_own(client, tmp_path):
    template = client.build("built", tmp_path.name, lambda grant: psycopg.connect(grant.url).close())
    with client.lease(template.reference) as lease:
        url = lease.url
        connect(url)
    with pytest.raises(NotALease, match="a lease that has ended"):
        connect(url)
    lease = client.acquire("shop")
    connect(lease.url)
    client.release(lease.id)

def test_own_files(tmp_path, tmp_path_factory):
    create_engine(f"sqlite:///{tmp_path}/own.db").connect().close()
"""


def test_leases_builds_and_temporary_files_of_the_run_are_allowed(suite: Suite) -> None:
    suite.write("test_it.py", LEASES)
    (suite.directory / "pytest.ini").write_text(
        "[pytest]\n"
    )  # SQLAlchemy's SQLite pool warns about open connections
    finished = suite.run("-n1")
    assert finished.counts() == {"passed": 4}, finished.output


ALLOWED = """
import pytest
from sqlalchemy import NullPool, create_engine
from freshdb.toolkit.guard import NotALease

@pytest.mark.parametrize("name", ["project", "ini", "environment"])
def test_it(name):
    create_engine(f"sqlite:///{name}.db", poolclass=NullPool).connect().close()

def test_no_other():
    with pytest.raises(NotALease):
        create_engine("sqlite:///other.db").connect()
"""


def test_allowed_urls_of_project_ini_and_environment_add_up(suite: Suite) -> None:
    suite.write("test_it.py", ALLOWED)
    (suite.directory / "pytest.ini").unlink()
    suite.write(
        "pyproject.toml",
        """
        [tool.pytest.ini_options]
        freshdb_guard_allow = ["sqlite:///*/ini.db"]
        [tool.freshdb]
        guard_allow = ["sqlite:///*/project.db"]
        """,
    )
    finished = suite.run(FRESHDB_GUARD_ALLOW="sqlite:///*/environment.db mysql://*")
    assert finished.counts() == {"passed": 4}
    assert finished.output.count("other.db by SQLAlchemy (pysqlite)") == 1


def test_mode_is_a_setting_and_off_without_a_template(suite: Suite) -> None:
    suite.write(
        "test_it.py",
        """
        from sqlalchemy import NullPool, create_engine

        def test_it():
            create_engine("sqlite:///it.db", poolclass=NullPool).connect().close()
        """,
    )
    (suite.directory / "pytest.ini").write_text("[pytest]\n")
    assert suite.run().counts() == {"failed": 1}
    assert suite.run(FRESHDB_TEMPLATE="").counts() == {"passed": 1}
    (suite.directory / "pytest.ini").write_text("[pytest]\nfreshdb_guard = on\n")
    assert suite.run(FRESHDB_TEMPLATE="", FRESHDB_GUARD="off").counts() == {"failed": 1}
    finished = suite.run("--freshdb-guard=strict")
    assert finished.status == pytest.ExitCode.USAGE_ERROR
    assert "--freshdb-guard: 'strict' must be one of on, report, off" in finished.output


AFTERWARDS = """
import psycopg, sys, pytest
assert pytest.main(["-p", "freshdb", "-p", "no:cacheprovider"]) == 0
psycopg.connect(sys.argv[1]).close()
"""


def test_guard_is_off_after_the_run(suite: Suite, postgres_18: PostgresServer) -> None:
    suite.write("test_it.py", "def test_it(freshdb):\n    pass\n")
    done = subprocess.run(
        [sys.executable, "-c", AFTERWARDS, postgres_18.dsn],
        cwd=suite.directory,
        env=suite.whole_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
