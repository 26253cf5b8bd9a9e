"""Fencing: the old login stops working, its backends are terminated and gone, its prepared transactions rolled back.

In this order: the role gets ``NOLOGIN`` in a transaction that commits; then every backend of the role is terminated, again
and again until none is left; then what it prepared for a second phase is rolled back. What remains to be said is why
nobody slips through.

*A backend that is being started* has been authenticated, but is not in ``pg_stat_activity`` yet (or, from PostgreSQL 18 on,
is there without a user): the loop does not see it. If it looks at its role after the commit it is refused. If it looked
before, it is inside the transaction that every start-up is, and shows a virtual transaction id in ``pg_locks`` until it
appears in ``pg_stat_activity``, which happens before that transaction ends. So: after the commit, every process that holds
a virtual transaction id and has no user is waited for. Each either vanishes or appears, and what appears is terminated.
The wait is bounded, because a client that connects and never sends its password looks the same; it has its look at the
role still before it.

*And if the bound is passed:* for isolation ``database``, ``DROP DATABASE`` does not need any of this; it looks at every
process, whether visible or not, and fails as long as one is in the database. For isolation ``schema``, each generation has a
role of its own with rights of its own: a backend that slipped through is one whose role is dropped, and it reaches nothing;
once the role is gone, it is terminated by the role's OID.

On a server that asks for no password (``trust``) it holds for the same reasons: the old role does not exist any longer, and
nobody but its own login may connect to the new database.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Final

import asyncpg

from freshdb_service.cluster.baseline import Leftovers, Unprovable
from freshdb_service.cluster.connections import SETTINGS, Connection
from freshdb_service.cluster.identifiers import quoted
from freshdb_service.cluster.ownership import OwnedObject, make_enterable
from freshdb_service.cluster.roles import forbid_login
from freshdb_service.errors import BackendUnavailable

if TYPE_CHECKING:
    from freshdb_service.cluster.server import Server
    from freshdb_service.cluster.sessions import Session

GONE_SECONDS: Final = 15.0
"""How long terminated backends may take to be gone."""
STARTUP_SECONDS: Final = 1.0
"""How long backends that are being started are waited for."""
_POLL_SECONDS: Final = 0.004

_TERMINATE = """
SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity
WHERE (usesysid = ANY ($1::oid[]) OR (datid = $2 AND usesysid IS NOT NULL)) AND pid <> pg_backend_pid()
"""

_STARTING = """
SELECT DISTINCT l.pid FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'virtualxid' AND l.pid <> pg_backend_pid()
  AND (a.pid IS NULL OR (a.usesysid IS NULL AND a.datid IS NULL))
"""


def _left(rows: list[asyncpg.Record]) -> Leftovers:
    inside = [row for row in rows if row["what"] == "open"]
    return Leftovers(
        connections=len(inside),
        prepared_transactions=sum(row["what"] == "prepared" for row in rows),
        advisory_locks=sum(row["locks"] for row in inside),
    )


_SHUT_OUT = f"""
WITH open AS MATERIALIZED (
    SELECT a.pid, (SELECT count(*) FROM pg_locks l WHERE l.pid = a.pid AND l.locktype = 'advisory') AS locks
    FROM pg_stat_activity a JOIN pg_authid r ON r.rolname = $1  -- once it has another name, nobody is ours to end
    WHERE (a.usesysid = r.oid
           OR ($2::bool AND a.datname = current_database() AND a.usesysid IS NOT NULL
               AND a.application_name <> '{SETTINGS["application_name"]}'))  -- the service's own write nothing there
      AND a.pid <> pg_backend_pid()
)
SELECT 'open' AS what, pid, locks, pg_terminate_backend(pid) FROM open
UNION ALL SELECT 'prepared', 0, 0, NULL FROM pg_prepared_xacts
          WHERE owner = $1 OR ($2::bool AND database = current_database())
UNION ALL SELECT 'login', 0, 0, NULL FROM pg_authid WHERE rolname = $1 AND rolcanlogin
UNION ALL SELECT 'starting', starting.pid, 0, NULL FROM ({_STARTING}) starting
"""


async def fence(connection: Connection, server: Server, roles: list[OwnedObject]) -> None:
    """Shut these roles out: nobody is in as one of them when this returns, nor gets in any more.

    Raises:
        BackendUnavailable: a backend would not end in time.
    """
    if not roles:
        return
    for role in roles:
        await forbid_login(connection, role)
    await terminate(connection, server, role_oids=[role.oid for role in roles])
    await roll_back_prepared(connection, server, owners=[str(role.name) for role in roles])


async def fence_shared(connection: Connection, server: Server, roles: list[OwnedObject]) -> None:
    """``fence`` where no drop of a database follows that would see what cannot be seen: backends that are being started.

    Raises:
        BackendUnavailable: a backend would not end in time.
    """
    if not roles:
        return
    for role in roles:
        await forbid_login(connection, role)
    await settle_starting(connection)
    await fence(connection, server, roles)


async def shut_out(session: Session, login: str, *, alone: bool) -> Leftovers:
    """Shut a login out from within its database, and see what its holder had not closed.

    Args:
        session: inside the database.
        login: whose backends are terminated.
        alone: nobody else has any business in the database, and whoever is in is shut out, too.

    Raises:
        Unprovable: something is prepared for a second phase; or somebody is being let in, and does not arrive.
        BackendUnavailable: a backend would not end in time.
    """
    until = monotonic() + GONE_SECONDS
    startup_until = monotonic() + STARTUP_SECONDS
    found: Leftovers | None = None
    starting: set[int] | None = None
    while True:
        rows = await session.fetch(_SHUT_OUT, login, alone)
        if any(row["what"] == "login" for row in rows):  # it was not closed when its lease ended
            await session.execute(f"ALTER ROLE {quoted(login)} NOLOGIN")
            found = found or _left(rows)
            continue
        inside = [row for row in rows if row["what"] == "open"]
        found = found or _left(rows)
        if found.prepared_transactions:
            raise Unprovable("transactions were prepared for a second phase", leftovers=found)
        now_starting = {int(row["pid"]) for row in rows if row["what"] == "starting"}
        starting = now_starting if starting is None else starting & now_starting
        if not inside and not starting:
            return found
        if not inside and monotonic() >= startup_until:
            raise Unprovable("somebody is connecting, and cannot be seen yet", leftovers=found)
        if monotonic() >= until:
            pids = ", ".join(str(row["pid"]) for row in inside)
            raise BackendUnavailable(f"these backends of {login} do not end: {pids}", retry_after_seconds=1.0)
        await asyncio.sleep(_POLL_SECONDS)


async def settle_starting(connection: Connection) -> None:
    """Wait until every backend that is being started right now can be seen, or is gone. Bounded."""
    until = monotonic() + STARTUP_SECONDS
    waited_for: set[int] | None = None
    while True:
        starting = {int(row["pid"]) for row in await connection.fetch(_STARTING)}
        waited_for = starting if waited_for is None else waited_for & starting
        if not waited_for or monotonic() >= until:
            return
        await asyncio.sleep(_POLL_SECONDS)


async def terminate(
    connection: Connection, server: Server, *, role_oids: list[int], database_oid: int | None = None
) -> None:
    """Terminate every backend of these roles, and every client in this database, until none is left.

    Raises:
        BackendUnavailable: one would not end in time, or may not be ended by us.
    """
    until = monotonic() + GONE_SECONDS
    while True:
        try:
            left = await connection.fetch(_TERMINATE, role_oids, database_oid)
        except asyncpg.InsufficientPrivilegeError as error:
            raise BackendUnavailable(
                f"on the server {server.name} somebody with more rights than {server.role} is connected to a database of "
                "freshdb's; it can be cleaned when they have left",
                retry_after_seconds=5.0,
            ) from error
        if not left:
            return
        if monotonic() >= until:
            pids = ", ".join(str(row["pid"]) for row in left)
            raise BackendUnavailable(f"on the server {server.name} these backends do not end: {pids}")
        await asyncio.sleep(_POLL_SECONDS)


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
