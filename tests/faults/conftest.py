"""A service with a proxy before everything that it stands on."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from freshdb_service.embedded import EmbeddedRedis
from tests.faults.proxy import Proxy
from tests.faults.stage import Stage
from tests.servers import PostgresServer
from tests.services import start_service

SETTINGS = {
    "min_ready": 2,
    "max_size": 3,
    "answer_seconds": 1,
    "failed_seconds": 0.5,
    "provision_concurrency": 2,
}


@dataclass(frozen=True, slots=True)
class TwoRedis:
    """Two real Redis servers, as a primary and its replica are; which is which is for the test to say."""

    first: str
    second: str


@pytest.fixture(scope="session")
def two_redis() -> Iterator[TwoRedis]:
    directory = Path(tempfile.mkdtemp(prefix="freshdb-two-redis-"))
    directory.chmod(0o711)
    servers = [EmbeddedRedis(directory / name) for name in ("first", "second")]
    first, second = (asyncio.run(server.start()) for server in servers)
    yield TwoRedis(first, second)
    for server in servers:
        asyncio.run(server.stop())
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def stage(postgres_18: PostgresServer, two_redis: TwoRedis) -> Iterator[Stage]:
    """One for all tests here: each leaves it as it was."""
    with ExitStack() as stack:
        control, managed = (stack.enter_context(Proxy(postgres_18.dsn)) for _ in range(2))
        redis = stack.enter_context(Proxy(two_redis.first))
        service = start_service([f"one={managed.url}"], redis.url, settings=SETTINGS, control=control.url)
        made = Stage(service, control, managed, redis, postgres_18.dsn, two_redis.first, two_redis.second)
        made.post("/v1/templates", {"name": "t", "sql": ["create table t (id int)"]}, 201)
        yield made
        assert service.stop() == 0
