from __future__ import annotations

import asyncio

from freshdb_service.redis.connection import RedisConnection
from freshdb_service.redis.shared_work import SharedWork
from tests.limits import LIMIT_SECONDS


async def test_duty_belongs_to_one_replica_until_released_or_expired(
    redis: RedisConnection,
) -> None:
    one, two = SharedWork(redis), SharedWork(redis)
    assert await one.mine("sweep", seconds=60)
    assert await one.mine("sweep", seconds=60)
    assert not await two.mine("sweep", seconds=60)
    assert await two.mine("mop", seconds=60)
    await two.lay_down("sweep")  # it belongs to the other replica
    assert not await two.mine("sweep", seconds=60)
    await one.lay_down("sweep")
    assert await two.mine("sweep", seconds=0.05)
    async with asyncio.timeout(LIMIT_SECONDS):
        while not await one.mine("sweep", seconds=60):
            await asyncio.sleep(0.005)
