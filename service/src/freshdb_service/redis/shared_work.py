"""Work that one replica at a time does for all: what costs the more, the more there is, and need not be done twice.

A duty is not a lock. Two may do the same at once, after Redis has forgotten or one was paused for long, so it must be
harmless; and whoever dies with it keeps it no longer than it said.
"""

from __future__ import annotations

from uuid import uuid4

from freshdb_service.redis.connection import RedisConnection


class SharedWork:
    """Who does what, as one replica sees it."""

    def __init__(self, redis: RedisConnection) -> None:
        self._redis = redis
        self._name = uuid4().hex

    async def mine(self, duty: str, *, seconds: float) -> bool:
        """Whether it falls to this replica: nobody else has it. If so, nobody else gets it for so long.

        Raises:
            BackendUnavailable: Redis is away, or refuses.
        """
        return await self._run(duty, seconds)

    async def lay_down(self, duty: str) -> None:
        """Let another replica have it at once.

        Raises:
            BackendUnavailable: Redis is away, or refuses.
        """
        await self._run(duty, 0)

    async def _run(self, duty: str, seconds: float) -> bool:
        keys = [self._redis.key("duty", duty)]
        return bool(await self._redis.run("shared_work_claim", keys, [self._name, round(seconds * 1000)]))
