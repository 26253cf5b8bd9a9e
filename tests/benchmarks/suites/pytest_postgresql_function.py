"""``pytest-postgresql``: its own fixture for each test, on the same server."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url
from sqlalchemy.orm import Session

from tests.benchmarks.suites.addresses import DSN, session_of, url

factories = importlib.import_module("pytest_postgresql.factories")  # installed for its own runs only
_given = make_url(DSN)
postgres_server = factories.postgresql_noproc(
    host=_given.host,
    port=_given.port,
    user=_given.username,
    password=_given.password,
    dbname="bench_pytest_postgresql",
    load=[Path(os.environ["BENCH_SCHEMA"])],
)
postgres_database = factories.postgresql("postgres_server")


@pytest.fixture
def session(postgres_database: psycopg.Connection) -> Iterator[Session]:
    with session_of(url(postgres_database.info.dbname)) as session:
        yield session
