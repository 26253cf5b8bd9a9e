"""Work that one replica does for all, because its cost grows with the installation and it need not be done twice.

A claim on such a duty is no lock. Two replicas may do the same work at the same time, after Redis has lost the claim or a
replica was paused. Therefore the work must be harmless when done twice. The claim of a replica that dies ends after its
time.
"""

from __future__ import annotations

from uuid import uuid4

from freshdb_service.redis.connection import RedisConnection


class SharedWork:
    """The claims of one replica on shared work."""

    def __init__(self, redis: RedisConnection) -> None:
        self._redis = redis
        self._name = uuid4().hex

    async def mine(self, duty: str, *, seconds: float) -> bool:
        """Claim a duty for ``seconds``. Return ``False`` if another replica has it.

        Raises:
            BackendUnavailable: Redis is unavailable, or refuses.
        """
        return await self._run(duty, seconds)

    async def lay_down(self, duty: str) -> None:
        """Release a duty for other replicas.

        Raises:
            BackendUnavailable: Redis is unavailable, or refuses.
        """
        await self._run(duty, 0)

    async def _run(self, duty: str, seconds: float) -> bool:
        keys = [self._redis.key("duty", duty)]
        return bool(await self._redis.run("shared_work_claim", keys, [self._name, round(seconds * 1000)]))
