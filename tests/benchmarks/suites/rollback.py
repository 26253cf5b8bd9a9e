"""The toolkit's method: an outer transaction for each test, which is rolled back. Commits become savepoints."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from tests.benchmarks.suites.addresses import SHARED, engine_of, url


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    with engine_of(url(SHARED)) as engine:
        yield engine


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with engine.connect() as connection:
        outer = connection.begin()
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            yield session
        outer.rollback()
