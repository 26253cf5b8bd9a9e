"""Addresses for the suite's fixtures: the server and its databases."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from sqlalchemy import URL, Engine, create_engine, make_url
from sqlalchemy.orm import Session

DSN = os.environ["BENCH_POSTGRES"]
"""DSN of a superuser."""
SHARED = "bench_shared"
"""Database with the schema, for variants that share one."""
TEMPLATE = "bench_template"
"""Database with the schema, for variants that clone it. No session is ever connected to it."""
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "main")


def url(database: str) -> URL:
    """Return SQLAlchemy's URL of a database of the server."""
    return make_url(DSN).set(drivername="postgresql+psycopg", database=database)


def server() -> psycopg.Connection:
    """Connect to the server, to create databases."""
    return psycopg.connect(DSN, autocommit=True)


@contextmanager
def engine_of(address: URL | str) -> Iterator[Engine]:
    """Return an engine, whose connections are closed when the block ends."""
    engine = create_engine(address)
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def session_of(address: URL | str) -> Iterator[Session]:
    """Return a session on an engine of its own."""
    with engine_of(address) as engine, Session(engine) as session:
        yield session
