"""Closing a login at the moment that its lease is given back, and counting what its holder left open.

When a release is answered, nobody gets in with the old URL any more, and whoever was in is about to be thrown out. Where
the reset begins at once, it sees to that itself (``fence.shut_out``), and that they are gone; this is for when it does not.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Final

from freshdb_reset import Leftovers
from freshdb_service.postgres.blockers import insisting
from freshdb_service.postgres.roles import close
from freshdb_service.postgres.server.connections import operation
from freshdb_service.postgres.server.server import Server

CLOSING_SECONDS: Final = 0.05
"""So long may a backend take to disappear whose client has closed its connection."""
_POLL_SECONDS: Final = 0.003


@operation
async def close_login(server: Server, login: str) -> Leftovers:
    """Let nobody in as a login any more, count what it has open, and begin to throw out who is in.

    Raises:
        BackendUnavailable: the server does not answer.
    """
    async with server.maintenance() as connection:
        with insisting(server, connection):
            closed = await close(connection, login)
        if not closed:
            return Leftovers()  # the janitor was faster
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
