"""freshdb: a lease for each worker, cleaned in place after each test by the toolkit. Connections stay open."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from freshdb.pytest_plugin import LeasedDatabase
from freshdb.toolkit.cleanup import Cleanup
from tests.benchmarks.suites.addresses import engine_of


@pytest.fixture(scope="session")
def engine(freshdb_session: LeasedDatabase) -> Iterator[Engine]:
    with engine_of(freshdb_session.sqlalchemy_url("psycopg")) as engine:
        yield engine


@pytest.fixture
def session(clean_database: Cleanup, engine: Engine) -> Iterator[Session]:
    del clean_database  # cleans the database after the test
    with Session(engine) as session:
        yield session
