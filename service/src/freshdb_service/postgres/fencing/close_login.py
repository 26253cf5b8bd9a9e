"""Close a login when its lease is released, and count what its holder left open.

When the client has the answer to a release, the old URL admits no connection any more, and open sessions are about to be
terminated. A reset that begins at once does this itself (``fence.fence_and_inspect``), and waits until the sessions are
gone. This module is for a reset that begins later.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Final

from freshdb_reset import Leftovers
from freshdb_service.postgres.blockers import terminating_blockers
from freshdb_service.postgres.roles import set_nologin
from freshdb_service.postgres.server.connections import operation
from freshdb_service.postgres.server.server import Server

CLOSING_SECONDS: Final = 0.05
"""Time for which a backend may stay visible after its client has closed the connection."""
_POLL_SECONDS: Final = 0.003


@operation
async def close_login(server: Server, login: str) -> Leftovers:
    """Disable a login, count its open sessions, prepared transactions and advisory locks, and terminate the sessions.

    Raises:
        BackendUnavailable: the server does not answer.
    """
    async with server.maintenance() as connection:
        with terminating_blockers(server, connection):
            closed = await set_nologin(connection, login)
        if not closed:
            return Leftovers()  # the janitor has closed it already
        until = monotonic() + CLOSING_SECONDS
        while True:
            found = Leftovers(**dict(await connection.fetchrow(_LEFT_OPEN, login) or {}))
            if not found.connections:
                return found
            if monotonic() >= until:
                await connection.execute(_TERMINATE, login)
                return found
            await asyncio.sleep(_POLL_SECONDS)


_TERMINATE: Final = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1"

_LEFT_OPEN: Final = """
SELECT count(*) AS connections, (SELECT count(*) FROM pg_prepared_xacts WHERE owner = $1) AS prepared_transactions,
       coalesce(sum((SELECT count(*) FROM pg_locks l WHERE l.pid = a.pid AND l.locktype = 'advisory')), 0)::int
         AS advisory_locks
FROM pg_stat_activity a WHERE a.usename = $1
"""
