from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.integration.installations import Bench, Installation, new_installation, replica
from tests.servers import PostgresServer


@pytest.fixture
def installation(postgres_18: PostgresServer, redis_url: str) -> Installation:
    return new_installation([postgres_18], redis_url)


@pytest.fixture
async def bench(installation: Installation) -> AsyncIterator[Bench]:
    async with replica(installation) as one:
        yield one
