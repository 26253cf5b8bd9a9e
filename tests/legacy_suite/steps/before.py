"""Before: every test creates the schema in the one test database and drops it again. Its changes to the application stay.

The circle of foreign keys makes ``drop_all`` warn and guess, so the test drops the whole schema.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from sqlalchemy import create_engine, text
from starlette.middleware import Middleware

from tests.legacy_suite.app_client import AppClient
from tests.legacy_suite.application import Base, app
from tests.legacy_suite.steps import NameHeader


@pytest.fixture
def client(request: pytest.FixtureRequest) -> Iterator[AppClient]:
    engine = create_engine(os.environ["DATABASE_URL"])
    Base.metadata.create_all(engine)
    app.user_middleware.append(Middleware(NameHeader, name=request.node.name))
    app.middleware_stack = None  # Starlette builds it again
    yield AppClient(app)
    app.user_middleware.clear()  # found after a long search: without it, the fourth kind of test fails
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE; CREATE SCHEMA public"))
    engine.dispose()
