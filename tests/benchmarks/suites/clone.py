"""A clone of a template for each test, by hand: CREATE DATABASE … TEMPLATE, DROP DATABASE."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy.orm import Session

from tests.benchmarks.suites.addresses import TEMPLATE, WORKER, server, session_of, url


@pytest.fixture(scope="session")
def connection() -> Iterator[psycopg.Connection]:
    with server() as connection:
        yield connection


@pytest.fixture
def session(connection: psycopg.Connection) -> Iterator[Session]:
    name = f"bench_clone_{WORKER}"
    connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{TEMPLATE}" STRATEGY file_copy')
    with session_of(url(name)) as session:
        yield session
    connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
