"""Closing a login at the moment that its lease is given back, and counting what its holder left open.

When a release is answered, nobody gets in with the old URL any more, and whoever was in is about to be thrown out. That
everybody is gone is seen to by the reset, which shuts the login out again whatever happened here (``fence``).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Final

import asyncpg

from freshdb_service.cluster.baseline import Leftovers
from freshdb_service.cluster.connections import operation
from freshdb_service.cluster.identifiers import quoted

if TYPE_CHECKING:
    from freshdb_service.cluster.server import Server

_CLOSING_SECONDS: Final = 0.05
"""So long may a backend take to disappear whose client has closed its connection."""
_POLL_SECONDS: Final = 0.003


@operation
async def close_login(server: Server, login: str) -> Leftovers:
    """Count what a login has open, let nobody in as it any more, and begin to throw out who is in.

    Raises:
        BackendUnavailable: the server does not answer.
    """
    until = monotonic() + _CLOSING_SECONDS
    async with server.maintenance() as connection:
        while True:
            row = await connection.fetchrow(_LEFT_OPEN, login)
            found = Leftovers(**dict(row)) if row is not None else Leftovers()
            if not found.connections or monotonic() >= until:
                break
            await asyncio.sleep(_POLL_SECONDS)
        with suppress(asyncpg.UndefinedObjectError):  # the janitor was faster
            await connection.execute(f"ALTER ROLE {quoted(login)} NOLOGIN")
            if found.connections:
                await connection.execute(_TERMINATE, login)
        return found


_TERMINATE: Final = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1"

_LEFT_OPEN: Final = """
SELECT count(*) AS connections, (SELECT count(*) FROM pg_prepared_xacts WHERE owner = $1) AS prepared_transactions,
       coalesce(sum((SELECT count(*) FROM pg_locks l WHERE l.pid = a.pid AND l.locktype = 'advisory')), 0)::int
         AS advisory_locks
FROM pg_stat_activity a WHERE a.usename = $1
"""
