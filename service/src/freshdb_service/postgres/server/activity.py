"""How busy a managed server is, as it says itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from freshdb_service.postgres.server.connections import operation
from freshdb_service.postgres.server.server import Server


@dataclass(frozen=True, slots=True)
class Activity:
    """What goes on at a server.

    Attributes:
        connections: that are open, everybody's.
        max_connections: that there may be, without those kept for superusers.
        active: connections in which a statement runs at this moment, as far as our role may see.
    """

    connections: int
    max_connections: int
    active: int


@operation
async def activity(server: Server) -> Activity:
    """How busy a server is.

    Raises:
        BackendUnavailable: it does not answer.
    """
    async with server.maintenance() as connection:
        row = await connection.fetchrow(_ACTIVITY)
    return Activity(**dict(row or {}))


_ACTIVITY: Final = """
SELECT count(*)::integer AS connections,
       (count(*) FILTER (WHERE state = 'active' AND pid <> pg_backend_pid()))::integer AS active,
       current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer
           AS max_connections
FROM pg_stat_activity WHERE backend_type = 'client backend'
"""
