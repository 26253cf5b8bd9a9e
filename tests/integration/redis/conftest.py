from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from freshdb_service.redis.connection import RedisConnection
from tests.limits import LIMIT_SECONDS


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[RedisConnection]:
    connection = RedisConnection(redis_url, uuid4(), timeout_seconds=LIMIT_SECONDS)
    yield connection
    await connection.close()
