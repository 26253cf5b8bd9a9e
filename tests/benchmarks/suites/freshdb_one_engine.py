"""freshdb: a clean database for each test, and one engine per worker, which connects to the database of the running test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest
from sqlalchemy import Engine, NullPool, create_engine
from sqlalchemy.orm import Session

from freshdb.pytest_plugin import LeasedDatabase


@dataclass(slots=True)
class CurrentDatabase:
    """Database of the running test."""

    url: str = ""


@pytest.fixture(scope="session")
def current_database() -> CurrentDatabase:
    return CurrentDatabase()


@pytest.fixture(scope="session")
def engine(current_database: CurrentDatabase) -> Engine:
    return create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(current_database.url), poolclass=NullPool
    )


@pytest.fixture
def session(freshdb: LeasedDatabase, engine: Engine, current_database: CurrentDatabase) -> Iterator[Session]:
    current_database.url = freshdb.url
    with engine.connect() as connection, Session(connection) as session:
        yield session
