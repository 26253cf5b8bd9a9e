"""Read the numbers of connections of a managed server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from freshdb_service.postgres.server.connections import operation
from freshdb_service.postgres.server.server import Server


@dataclass(frozen=True, slots=True)
class Activity:
    """Connections of a server.

    Attributes:
        connections: open connections of all clients.
        max_connections: maximum connections, without those reserved for superusers.
        active: connections that run a statement, as far as the service's role may read that.
    """

    connections: int
    max_connections: int
    active: int


@operation
async def activity(server: Server) -> Activity:
    """Read the numbers of connections of a server.

    Raises:
        BackendUnavailable: the server does not answer.
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
