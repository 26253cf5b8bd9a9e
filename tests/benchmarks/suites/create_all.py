"""``create_all`` before, ``drop_all`` after each test, in a database per worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from tests.benchmarks.suites.addresses import WORKER, engine_of, server, url
from tests.benchmarks.suites.tables import metadata


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    name = f"bench_create_all_{WORKER}"
    with server() as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
        with engine_of(url(name)) as engine:
            yield engine
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    metadata.create_all(engine, checkfirst=False)
    with Session(engine) as session:
        yield session
    metadata.drop_all(engine, checkfirst=False)
