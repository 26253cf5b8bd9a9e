"""What the suite's fixtures are told: where the server is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from sqlalchemy import URL, Engine, create_engine, make_url
from sqlalchemy.orm import Session

DSN = os.environ["BENCH_POSTGRES"]
"""A superuser's."""
SHARED = "bench_shared"
"""A database with the schema, for those who share one."""
TEMPLATE = "bench_template"
"""The same, for those who clone it: nobody is ever in it."""
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "main")


def url(database: str) -> URL:
    """A database of the server, for SQLAlchemy."""
    return make_url(DSN).set(drivername="postgresql+psycopg", database=database)


def server() -> psycopg.Connection:
    """Where databases are created."""
    return psycopg.connect(DSN, autocommit=True)


@contextmanager
def engine_of(address: URL | str) -> Iterator[Engine]:
    """An engine; what it held is closed when the block ends."""
    engine = create_engine(address)
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def session_of(address: URL | str) -> Iterator[Session]:
    """A session on an engine of its own."""
    with engine_of(address) as engine, Session(engine) as session:
        yield session
