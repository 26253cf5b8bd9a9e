"""Terminate sessions and transactions of holders that block the service.

A holder may end its lease in the middle of a transaction that locks an object that the service changes next:

* the row of its own login (``ALTER ROLE CURRENT_USER PASSWORD …``) or of its database,
* the role of another lease: an open ``GRANT … TO`` that role prevents its drop,
* a table of another lease that it was once granted.

The transaction may be a prepared one, which no backend holds. A backend may also wait for its client in the middle of a
statement (for the data of a ``COPY … FROM STDIN``, or until its result is read). Such a backend does not process the barrier
that PostgreSQL sends to all backends before it drops a database, so every ``DROP DATABASE`` on the server waits for it.

So the service does not wait for holders. While ``terminating_blockers`` is active, it checks at intervals which sessions
block the connection, and terminates those of this installation's logins and of autovacuum. (Autovacuum gives way by itself,
unless it runs a function of a holder that does not return.) A statement that is not blocked costs only a timer. Sessions of
others, such as an operator or another application, are not terminated: the service waits for them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

import asyncpg

from freshdb_service.errors import FreshdbError
from freshdb_service.postgres import ownership
from freshdb_service.postgres.names import Kind, quoted
from freshdb_service.postgres.server.connections import Connection
from freshdb_service.postgres.server.server import Server

_log = logging.getLogger(__name__)

CHECK_SECONDS: Final = 0.5
"""Interval between checks for blockers, and the wait before the first."""
BARRIER_SECONDS: Final = 5.0
"""Time for which a session that waits for its client in the middle of a statement may block drops of databases."""

_BLOCKERS: Final = """
WITH RECURSIVE way (pid) AS (
    SELECT unnest(pg_blocking_pids($1))
    UNION SELECT unnest(pg_blocking_pids(way.pid)) FROM way WHERE way.pid <> 0
)
SELECT a.pid, coalesce(a.usename, 'autovacuum') AS usename FROM pg_stat_activity a JOIN way USING (pid)
WHERE a.usesysid = ANY ($2::oid[]) OR a.backend_type = 'autovacuum worker'
"""

_PREPARED_BLOCKERS: Final = """
SELECT p.database, p.owner, format('ROLLBACK PREPARED %L', p.gid) AS statement
FROM pg_locks w
JOIN pg_locks h ON h.pid IS NULL AND h.granted AND h.locktype = w.locktype
  AND (h.database, h.relation, h.page, h.tuple, h.transactionid, h.classid, h.objid, h.objsubid)
      IS NOT DISTINCT FROM (w.database, w.relation, w.page, w.tuple, w.transactionid, w.classid, w.objid, w.objsubid)
JOIN pg_locks x ON x.pid IS NULL AND x.granted AND x.locktype = 'transactionid' AND x.mode = 'ExclusiveLock'
  AND x.virtualtransaction = h.virtualtransaction
JOIN pg_prepared_xacts p ON p.transaction = x.transactionid
WHERE NOT w.granted AND w.pid = $1 AND p.owner = ANY ($2::text[])
"""

_BARRIER_BLOCKERS: Final = """
SELECT pid, usename FROM pg_stat_activity
WHERE usesysid = ANY ($2::oid[]) AND state = 'active' AND wait_event IN ('ClientRead', 'ClientWrite')
  AND EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'ProcSignalBarrier')
"""

_HOLDERS: Final = frozenset({Kind.DATABASE, Kind.SCHEMA, Kind.TEMPLATE})


@contextmanager
def terminating_blockers(server: Server, connection: Connection) -> Iterator[None]:
    """Terminate sessions and transactions of holders that block the connection, while the block runs."""
    loop = asyncio.get_running_loop()
    watching: asyncio.Task[None] | None = None

    def watch() -> None:
        nonlocal watching
        watching = loop.create_task(_watch(server, pid))

    pid = connection.get_server_pid()
    timer = loop.call_later(CHECK_SECONDS, watch)
    try:
        yield
    finally:
        timer.cancel()
        if watching is not None:
            watching.cancel()


async def _watch(server: Server, pid: int) -> None:
    idle_for: dict[int, float] = {}
    while True:
        try:
            idle_for = await _terminate_blockers(server, pid, idle_for)
        except (FreshdbError, asyncpg.PostgresError) as error:
            _log.warning("cannot check for blocking sessions on the server %s: %s", server.name, error)
        await asyncio.sleep(CHECK_SECONDS)


async def _terminate_blockers(server: Server, pid: int, idle_for: dict[int, float]) -> dict[int, float]:
    """Terminate the present blockers.

    Args:
        server: where.
        pid: backend of the blocked connection.
        idle_for: seconds for which each session has blocked a barrier so far.

    Returns:
        the new ``idle_for``.
    """
    async with server.maintenance() as connection:
        holders = [one for one in await ownership.roles(connection, server) if one.name.kind in _HOLDERS]
        oids, names = [one.oid for one in holders], [str(one.name) for one in holders]
        ended = {row["pid"]: row["usename"] for row in await connection.fetch(_BLOCKERS, pid, oids)}
        blocking = {
            row["pid"]: row["usename"] for row in await connection.fetch(_BARRIER_BLOCKERS, pid, oids)
        }
        idle_for = {one: idle_for.get(one, 0.0) + CHECK_SECONDS for one in blocking}
        ended |= {one: name for one, name in blocking.items() if idle_for[one] >= BARRIER_SECONDS}
        for one, name in ended.items():
            _log.warning(
                "on the server %s a session of %s blocked the service and is terminated", server.name, name
            )
            await connection.fetchval("SELECT pg_terminate_backend($1)", one)
        await _roll_back(connection, server, await connection.fetch(_PREPARED_BLOCKERS, pid, names))
    return idle_for


async def allow_connections(connection: Connection, server: Server, names: set[str]) -> None:
    """Allow connections to databases whose holders or builders may have closed them to others."""
    for one in await ownership.databases(connection, server) if names else []:
        closable = one.name.kind in {Kind.DATABASE, Kind.TEMPLATE}
        if closable and str(one.name) in names and not one.invalid:
            with terminating_blockers(server, connection):
                await connection.execute(
                    f"ALTER DATABASE {quoted(one.name)} ALLOW_CONNECTIONS true CONNECTION LIMIT -1"
                )


async def roll_back_prepared(
    connection: Connection, server: Server, *, owners: list[str], database: str | None = None
) -> None:
    """Roll back prepared transactions of these roles, and those of any role in this database.

    PostgreSQL requires a session in the same database, as the same user or a superuser.
    """
    rows = await connection.fetch(
        """
        SELECT database, owner, format('ROLLBACK PREPARED %L', gid) AS statement FROM pg_prepared_xacts
        WHERE owner = ANY ($1::text[]) OR database = $2
        """,
        owners,
        database,
    )
    await _roll_back(connection, server, rows)


async def _roll_back(connection: Connection, server: Server, rows: Iterable[asyncpg.Record]) -> None:
    by_database: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for row in rows:
        by_database[row["database"]].append((row["owner"], row["statement"]))
    await allow_connections(connection, server, set(by_database))
    for name, prepared in by_database.items():
        async with server.inside(name) as inside:
            for owner, statement in prepared:
                if not server.is_superuser:
                    await inside.execute(f"SET ROLE {quoted(owner)}")
                with suppress(asyncpg.UndefinedObjectError):  # its owner, or another replica, has ended it
                    await inside.execute(statement)
                await inside.execute("RESET ROLE")
