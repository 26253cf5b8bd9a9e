"""Status of the managed servers, with their current activity."""

from __future__ import annotations

import asyncio
from typing import Final

from freshdb_service.errors import FreshdbError
from freshdb_service.postgres import activity
from freshdb_service.resources import Resources
from freshdb_service.status.diagnosis import ServerStatus
from freshdb_service.store import dashboard_queries
from freshdb_service.store.dashboard_queries import ServerDetails

_ANSWER_SECONDS: Final = 2.0
"""Timeout after which a server counts as unavailable, so that pages and callers do not wait longer for it."""


async def all_servers(resources: Resources) -> list[ServerStatus]:
    """Return all servers in the control plane, by name. Those that do not answer within two seconds have an error."""
    async with resources.store.statement() as connection:
        known = await dashboard_queries.servers_with_load(connection)
    return list(await asyncio.gather(*(_asked(resources, one) for one in known)))


async def _asked(resources: Resources, known: ServerDetails) -> ServerStatus:
    if known.name not in resources.servers:
        return ServerStatus(known, None, "this replica does not manage it", managed_here=False)
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            return ServerStatus(known, await activity(resources.server(known.name)), None)
    except FreshdbError as error:
        return ServerStatus(known, None, error.message)
    except TimeoutError:
        return ServerStatus(known, None, f"no answer within {_ANSWER_SECONDS:g} seconds")
