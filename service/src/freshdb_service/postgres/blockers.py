"""What holders hold on to, and how the service gets it all the same.

A holder may end its lease in the middle of a transaction that keeps a lock on what the service has to change next: on its
login's own row (``ALTER ROLE CURRENT_USER PASSWORD …``), on its database's, on the role of another lease (``GRANT … TO`` a
neighbour keeps that role from being dropped), on a neighbour's table that it was once given. The transaction may be a
prepared one, which no backend holds. And a backend that waits for its client in the middle of a statement (for the data of a
``COPY … FROM STDIN``, or that its answer is read) does not take part in what PostgreSQL has all backends do before it drops
a database: every ``DROP DATABASE`` on the server waits for it.

So the service does not wait for holders: ``insisting`` looks, now and then, who is in the way of a connection, and ends the
transactions of those who are there as a login of ours. (Autovacuum makes way by itself, unless it runs a function of theirs
that does not want to.) Whoever waits for nobody costs nothing more than a timer. What others hold (an operator's session,
another application's) is waited for.
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

PATIENCE_SECONDS: Final = 0.5
"""How long something is waited for before it is looked who is in the way."""
BARRIER_SECONDS: Final = 5.0
"""How long a session that waits for its client in the middle of a statement may keep databases from being dropped."""

_IN_THE_WAY: Final = """
WITH RECURSIVE way (pid) AS (
    SELECT unnest(pg_blocking_pids($1))
    UNION SELECT unnest(pg_blocking_pids(way.pid)) FROM way WHERE way.pid <> 0
)
SELECT a.pid, coalesce(a.usename, 'autovacuum') AS usename FROM pg_stat_activity a JOIN way USING (pid)
WHERE a.usesysid = ANY ($2::oid[]) OR a.backend_type = 'autovacuum worker'
"""

_PREPARED_IN_THE_WAY: Final = """
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

_KEEPS_A_BARRIER_UP: Final = """
SELECT pid, usename FROM pg_stat_activity
WHERE usesysid = ANY ($2::oid[]) AND state = 'active' AND wait_event IN ('ClientRead', 'ClientWrite')
  AND EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'ProcSignalBarrier')
"""

_HOLDERS: Final = frozenset({Kind.DATABASE, Kind.SCHEMA, Kind.TEMPLATE})


@contextmanager
def insisting(server: Server, connection: Connection) -> Iterator[None]:
    """As long as the block runs, end what keeps the connection waiting, if it is a holder's."""
    loop = asyncio.get_running_loop()
    watching: asyncio.Task[None] | None = None

    def watch() -> None:
        nonlocal watching
        watching = loop.create_task(_watch(server, pid))

    pid = connection.get_server_pid()
    timer = loop.call_later(PATIENCE_SECONDS, watch)
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
            idle_for = await _clear_the_way(server, pid, idle_for)
        except (FreshdbError, asyncpg.PostgresError) as error:
            _log.warning("cannot see who is in the way on the server %s: %s", server.name, error)
        await asyncio.sleep(PATIENCE_SECONDS)


async def _clear_the_way(server: Server, pid: int, idle_for: dict[int, float]) -> dict[int, float]:
    """End whoever is in the way by now; ``idle_for`` is how long others have kept a barrier up."""
    async with server.maintenance() as connection:
        holders = [one for one in await ownership.roles(connection, server) if one.name.kind in _HOLDERS]
        oids, names = [one.oid for one in holders], [str(one.name) for one in holders]
        ended = {row["pid"]: row["usename"] for row in await connection.fetch(_IN_THE_WAY, pid, oids)}
        keeping = {
            row["pid"]: row["usename"] for row in await connection.fetch(_KEEPS_A_BARRIER_UP, pid, oids)
        }
        idle_for = {one: idle_for.get(one, 0.0) + PATIENCE_SECONDS for one in keeping}
        ended |= {one: name for one, name in keeping.items() if idle_for[one] >= BARRIER_SECONDS}
        for one, name in ended.items():
            _log.warning("on the server %s a session of %s was in the way, and is ended", server.name, name)
            await connection.fetchval("SELECT pg_terminate_backend($1)", one)
        await _roll_back(connection, server, await connection.fetch(_PREPARED_IN_THE_WAY, pid, names))
    return idle_for


async def make_enterable(connection: Connection, server: Server, names: set[str]) -> None:
    """Undo what holders or builders may have set on databases of theirs to keep others, and so the service, out."""
    for one in await ownership.databases(connection, server) if names else []:
        theirs = one.name.kind in {Kind.DATABASE, Kind.TEMPLATE}
        if theirs and str(one.name) in names and not one.invalid:
            with insisting(server, connection):
                await connection.execute(
                    f"ALTER DATABASE {quoted(one.name)} ALLOW_CONNECTIONS true CONNECTION LIMIT -1"
                )


async def roll_back_prepared(
    connection: Connection, server: Server, *, owners: list[str], database: str | None = None
) -> None:
    """Roll back the transactions that these roles, or anybody in this database, prepared for a second phase.

    That takes a session in the same database, as the same user or a superuser.
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
    await make_enterable(connection, server, set(by_database))
    for name, prepared in by_database.items():
        async with server.inside(name) as inside:
            for owner, statement in prepared:
                if not server.is_superuser:
                    await inside.execute(f"SET ROLE {quoted(owner)}")
                with suppress(asyncpg.UndefinedObjectError):  # its owner, or another replica, was faster
                    await inside.execute(statement)
                await inside.execute("RESET ROLE")
