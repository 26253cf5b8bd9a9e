"""The managed servers, and how busy each says that it is."""

from __future__ import annotations

import asyncio
from typing import Final

from freshdb_service.cluster import activity
from freshdb_service.diagnosis import ServerFacts
from freshdb_service.errors import FreshdbError
from freshdb_service.installation import Installation
from freshdb_service.store import looking
from freshdb_service.store.looking import ServerLook

_ANSWER_SECONDS: Final = 2.0
"""A server that takes longer to say how busy it is, counts as away: nobody looks at a page, or waits for a place, for
longer."""


async def all_servers(at: Installation) -> list[ServerFacts]:
    """Every server that there ever was, by name; those that do not answer within two seconds say why."""
    async with at.store.statement() as connection:
        known = await looking.servers_with_load(connection)
    return list(await asyncio.gather(*(_asked(at, one) for one in known)))


async def _asked(at: Installation, known: ServerLook) -> ServerFacts:
    if known.name not in at.servers:
        return ServerFacts(known, None, "this replica was not started with it", managed_here=False)
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            return ServerFacts(known, await activity(at.server(known.name)), None)
    except FreshdbError as error:
        return ServerFacts(known, None, error.message)
    except TimeoutError:
        return ServerFacts(known, None, f"no answer within {_ANSWER_SECONDS:g} seconds")
