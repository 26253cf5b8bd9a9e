"""No isolation: all tests in one database, with one connection each. A database per test cannot cost less than this."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import Engine, NullPool, create_engine
from sqlalchemy.orm import Session

from tests.benchmarks.suites.addresses import DSN, SHARED


@pytest.fixture(scope="session")
def engine() -> Engine:
    shared = f"{DSN.rpartition('/')[0]}/{SHARED}"
    return create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(shared), poolclass=NullPool)


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with engine.connect() as connection, Session(connection) as session:
        yield session
