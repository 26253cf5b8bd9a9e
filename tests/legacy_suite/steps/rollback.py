"""Step 2, for tests that may share a database: a lease for each module, and a transaction for each test, rolled back.

This is not for tests that look at sequences, because a rollback does not return a number. They keep a lease of their own.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session

from freshdb.pytest_plugin import LeasedDatabase
from tests.legacy_suite.app_client import AppClient
from tests.legacy_suite.application import get_session, make_app
from tests.legacy_suite.steps import NameHeader
from tests.legacy_suite.steps.leases import leased


@pytest.fixture(scope="module")
def engine(freshdb_module: LeasedDatabase) -> Iterator[Engine]:
    engine = create_engine(freshdb_module.sqlalchemy_url("psycopg"))
    yield engine
    engine.dispose()


@pytest.fixture
def client(request: pytest.FixtureRequest) -> Iterator[AppClient]:
    if "numbered" in request.node.name:
        yield from leased(request.getfixturevalue("freshdb"), request.node.name)
        return
    engine: Engine = request.getfixturevalue("engine")
    app = make_app()
    app.add_middleware(NameHeader, name=request.node.name)
    with engine.connect() as connection:
        outer = connection.begin()

        def session() -> Iterator[Session]:
            with Session(connection, join_transaction_mode="create_savepoint") as inner:
                yield inner

        app.dependency_overrides[get_session] = session
        yield AppClient(app)
        outer.rollback()
