"""Before: every test creates the schema in the one test database and drops it again. Its changes to the application stay.

The circle of foreign keys makes ``drop_all`` warn and guess, so the test drops the whole schema.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from sqlalchemy import create_engine, text
from starlette.middleware import Middleware

from tests.old_ways.application import Base, app
from tests.old_ways.caller import Caller
from tests.old_ways.steps import Named


@pytest.fixture
def client(request: pytest.FixtureRequest) -> Iterator[Caller]:
    engine = create_engine(os.environ["DATABASE_URL"])
    Base.metadata.create_all(engine)
    app.user_middleware.append(Middleware(Named, name=request.node.name))
    app.middleware_stack = None  # Starlette builds it again
    yield Caller(app)
    app.user_middleware.clear()  # found after a long search: without it, the fourth kind of test fails
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE; CREATE SCHEMA public"))
    engine.dispose()
