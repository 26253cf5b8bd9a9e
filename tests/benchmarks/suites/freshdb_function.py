"""freshdb: a clean database and an engine for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy.orm import Session

from freshdb.pytest_plugin import LeasedDatabase
from tests.benchmarks.suites.addresses import session_of


@pytest.fixture
def session(freshdb: LeasedDatabase) -> Iterator[Session]:
    with session_of(freshdb.sqlalchemy_url("psycopg")) as session:
        yield session
