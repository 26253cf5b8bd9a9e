"""Pool sizes for tests."""

from __future__ import annotations

import time

from freshdb import Client
from tests.limits import LIMIT_SECONDS


def shrink(client: Client, pool_id: str) -> None:
    """Shrink a pool to the one database that is leased, with room for no other."""
    client.resize(pool_id, min_ready=0, max_size=1, idle_seconds=0.01)
    until = time.monotonic() + LIMIT_SECONDS
    while sum(client.pool(pool_id).databases.values()) > 1:
        assert time.monotonic() < until, client.pool(pool_id)
        time.sleep(0.05)
