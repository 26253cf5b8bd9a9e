"""No isolation: all tests in one database, an engine per worker."""

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
    with Session(engine) as session:
        yield session
