"""Step 1: the schema is created once, in a template. Every test gets a database of its own, and drops no tables.

Three problems disappear: the order in which tables can be dropped, CREATE OR REPLACE FUNCTION in two processes at a time,
and identifiers that collide. So the suite can run in parallel. The rest is as before: an engine for each test.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import create_engine

from freshdb.pytest_plugin import LeasedDatabase
from tests.legacy_suite.app_client import AppClient
from tests.legacy_suite.application import make_app
from tests.legacy_suite.steps import NameHeader


def leased(database: LeasedDatabase, name: str) -> Iterator[AppClient]:
    engine = create_engine(database.sqlalchemy_url("psycopg"))
    app = make_app(engine)  # the test's own, so the test's changes to it end with it
    app.add_middleware(NameHeader, name=name)
    yield AppClient(app)
    engine.dispose()


@pytest.fixture
def client(freshdb: LeasedDatabase, request: pytest.FixtureRequest) -> Iterator[AppClient]:
    yield from leased(freshdb, request.node.name)
