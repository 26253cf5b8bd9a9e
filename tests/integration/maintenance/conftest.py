from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.integration.installations import Bench, Site, replica, site
from tests.servers import PostgresServer


@pytest.fixture
def here(postgres_18: PostgresServer, redis_url: str) -> Site:
    return site([postgres_18], redis_url)


@pytest.fixture
async def bench(here: Site) -> AsyncIterator[Bench]:
    async with replica(here) as one:
        yield one
