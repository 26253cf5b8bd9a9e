from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from freshdb_service.redis.connection import RedisConnection


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[RedisConnection]:
    connection = RedisConnection(redis_url, uuid4())
    yield connection
    await connection.close()
