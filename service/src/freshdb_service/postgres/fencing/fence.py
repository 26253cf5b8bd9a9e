"""Fencing: disable the old login, terminate its backends until none is left, and roll back its prepared transactions.

The order is: set the role to ``NOLOGIN`` and commit. Terminate every backend of the role, and repeat this until none is
left. Roll back the role's prepared transactions. The rest of this text argues that no backend escapes.

*A backend that is starting* has been authenticated, but is not in ``pg_stat_activity`` yet (from PostgreSQL 18 on, it is
there without a user). The loop does not see it. If the backend reads its role after the commit, it is refused. If it read
the role before, it is inside its start-up transaction. This transaction shows a virtual transaction id in ``pg_locks`` until
the backend is in ``pg_stat_activity``, which happens before the transaction ends. So after the commit, the service waits for
every process that holds a virtual transaction id and has no user. Each process either ends or appears, and one that appears
is terminated. The locks are read before the snapshot of the backends is taken: a backend that arrived between a snapshot and
a later query of the locks would be in neither. From PostgreSQL 18 on, the snapshot alone has both kinds of backends.

*A client that is slow to send its password* looks the same, and its backend has not read the role yet. From PostgreSQL 18
on, such a backend can be recognised: it waits for the client and has no user. The wait event is read live, but the user
comes from a snapshot that is taken once per transaction. So a backend that was seen waiting is excluded only in the next
transaction, and only if it still has no user then. A backend never loses its user, so it had none while it waited. On older
versions, the wait for such a backend is bounded.

*If the bound is exceeded:* with isolation ``database``, ``DROP DATABASE`` checks every process, visible or not, and fails as
long as one is in the database. With isolation ``schema``, each generation has its own role with its own rights. If a backend
escaped, its role is dropped, so it can reach nothing. Once the role is dropped, the backend is terminated by the role's OID.

On a server that asks for no password (``trust``) the same holds: the old role does not exist any more, and only the new
login may connect to the new database.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from time import monotonic
from typing import Final

import asyncpg

from freshdb_reset import OIDS, Cause, Inspection, InspectionQuery, Leftovers, Site, Unprovable
from freshdb_service.errors import BackendUnavailable
from freshdb_service.postgres.blockers import roll_back_prepared
from freshdb_service.postgres.fencing.close_login import CLOSING_SECONDS
from freshdb_service.postgres.ownership import OwnedObject
from freshdb_service.postgres.roles import forbid_login, set_nologin
from freshdb_service.postgres.server.connections import SETTINGS, Connection
from freshdb_service.postgres.server.server import Server
from freshdb_service.postgres.server.session_cache import Session

GONE_SECONDS: Final = 15.0
"""Timeout for terminated backends to end."""
STARTUP_SECONDS: Final = 1.0
"""Timeout for starting backends to end or to appear."""
PRIVILEGED_SECONDS: Final = 2.0
"""Timeout for sessions that the service may not terminate, such as a superuser's, to end by themselves."""
_POLL_SECONDS: Final = 0.004

_TERMINATE = """
SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity
WHERE (usesysid = ANY ($1::oid[]) OR (datid = $2 AND usesysid IS NOT NULL)) AND pid <> pg_backend_pid()
"""

_STARTING = """
SELECT DISTINCT l.pid, COALESCE(a.wait_event = 'ClientRead', false) AS authenticating
FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'virtualxid' AND l.pid <> pg_backend_pid()
  AND (a.pid IS NULL OR (a.usesysid IS NULL AND a.datid IS NULL))
"""

_STARTING_IS_VISIBLE: Final = 18
"""First version whose ``pg_stat_activity`` shows backends before they are authenticated."""

_LOCKED: Final = "ARRAY(SELECT pid FROM pg_locks WHERE locktype = 'virtualxid' AND pid <> pg_backend_pid())"
_NO_PIDS: Final = "ARRAY[]::integer[]"

_FENCE_AND_INSPECT = """
WITH me AS MATERIALIZED ({me}  -- no row, and so no backend to terminate, once the login has another name
), locked AS MATERIALIZED (
    SELECT {locked} AS pids
), backends AS MATERIALIZED (  -- the snapshot, taken after the locks have been read: see the module's text
    SELECT id, pg_stat_get_backend_pid(id) AS pid, pg_stat_get_backend_userid(id) AS role,
           pg_stat_get_backend_dbid(id) AS database
    FROM locked CROSS JOIN LATERAL (SELECT pg_stat_get_backend_idset() AS id WHERE cardinality(locked.pids) >= 0) one
), open AS MATERIALIZED (
    SELECT b.pid FROM me, backends b
    WHERE (b.role = me.login OR ($2::text IS NULL AND b.database = me.database AND b.role <> 0
                                 -- The service's own sessions write nothing. One with a hidden name is not its own.
                                 AND (b.role <> to_regrole(quote_ident(session_user))
                                      OR NOT EXISTS (SELECT FROM pg_stat_get_activity(b.pid) a
                                                     WHERE a.application_name = '{ours}'))))
      AND b.pid <> pg_backend_pid()
), starting AS MATERIALIZED (  -- PostgreSQL's own processes have no client port
    SELECT pid FROM backends WHERE role = 0 AND database = 0 AND pg_stat_get_backend_client_port(id) IS NOT NULL
    UNION
    SELECT pid FROM locked CROSS JOIN unnest(locked.pids) AS pid LEFT JOIN backends USING (pid)
    WHERE backends.id IS NULL OR (role = 0 AND database = 0)
)
SELECT ARRAY(SELECT pid::text FROM open) AS inside,
       (SELECT count(*) FROM me, pg_prepared_xact() p
        WHERE p.ownerid = me.login OR ($2::text IS NULL AND p.dbid = me.database))::int AS prepared,
       ARRAY(SELECT pid::text FROM starting) AS starting,
       ARRAY(SELECT pid::text FROM starting JOIN backends USING (pid)
             WHERE pg_stat_get_backend_wait_event(id) = 'ClientRead') AS authenticating,
       -- Autovacuum's workers have no user. They can run functions in index expressions.
       CASE WHEN NOT EXISTS (SELECT FROM me, backends b WHERE b.role = 0 AND b.database = me.database) THEN false
            WHEN $2::text IS NULL THEN true
            ELSE EXISTS (SELECT FROM me, backends b JOIN pg_locks l USING (pid) JOIN pg_class c ON c.oid = l.relation
                         WHERE b.role = 0 AND b.database = me.database AND c.relnamespace = me.schema) END
         AS vacuuming,
       -- Evaluated last, so that the inspection includes the writes of all backends that have ended.
       CASE WHEN NOT EXISTS (SELECT FROM open)
             AND NOT EXISTS (SELECT FROM starting WHERE $8::text[] IS NULL OR pid::text = ANY ($8::text[]))
            THEN (SELECT to_json(one)::text FROM ({inspection}) one) END AS inspection
""".replace("{ours}", SETTINGS["application_name"]).replace("{me}", OIDS)

_TERMINATE_COUNTING = """
SELECT a.pid, (SELECT count(*) FROM pg_locks l WHERE l.pid = a.pid AND l.locktype = 'advisory')::int AS locks,
       pg_terminate_backend(a.pid)
FROM pg_stat_activity a JOIN pg_roles r ON r.rolname = $1  -- as above
WHERE a.pid::text = ANY ($2::text[]) AND (a.usesysid = r.oid OR ($3::bool AND a.datname = current_database()))
"""


async def fence(connection: Connection, server: Server, roles: list[OwnedObject]) -> None:
    """Fence these roles: when this returns, none of them has a session, and none can log in.

    Raises:
        BackendUnavailable: a backend did not end in time.
    """
    if not roles:
        return
    for role in roles:
        await forbid_login(connection, server, role)
    await terminate(connection, server, role_oids=[role.oid for role in roles])
    await roll_back_prepared(connection, server, owners=[str(role.name) for role in roles])


async def fence_shared(connection: Connection, server: Server, roles: list[OwnedObject]) -> None:
    """Fence roles in a shared database, where no drop of the database follows that would find starting backends.

    Raises:
        BackendUnavailable: a backend did not end in time.
    """
    if not roles:
        return
    for role in roles:
        await forbid_login(connection, server, role)
    await wait_for_starting(connection)
    await fence(connection, server, roles)


async def fence_and_inspect(
    session: Session, site: Site, query: InspectionQuery, *, sees_all: bool = True
) -> tuple[Leftovers, Inspection]:
    """Fence a login from a session in its database, and inspect the database.

    Args:
        session: session in the database. Unless the database is shared, all other sessions in it are terminated, too.
        site: names of the database and the login.
        query: query that inspects the database. It runs as soon as no other session is in it.
        sees_all: true if the session's role may read all of ``pg_stat_activity``.

    Returns:
        the leftovers, and the inspection.

    Raises:
        Unprovable: there are prepared transactions, a starting backend does not appear, or the login or schema does not
            exist.
        BackendUnavailable: a backend did not end in time.
    """
    if not await set_nologin(session, site.login):
        raise Unprovable("its login does not exist any more", cause=Cause.LOGIN)
    visible = sees_all and session.get_server_version().major >= _STARTING_IS_VISIBLE
    statement = _FENCE_AND_INSPECT.replace("{locked}", _NO_PIDS if visible else _LOCKED)
    statement = statement.replace("{inspection}", query.query)
    values, began = query.values, monotonic()
    found: Leftovers | None = None
    starting: set[str] | None = None
    while True:
        waited = monotonic() - began
        awaited = None if starting is None else list(starting)
        [row] = await session.fetch(statement, site.login, site.schema, *values, awaited)
        ended: list[int] = []
        if row["inside"] and waited >= CLOSING_SECONDS:
            ended = await _terminate_counting(session, site, row["inside"], waited)
        if found is None and (ended or not row["inside"]):
            found = Leftovers(len(ended), row["prepared"], sum(ended))
        if found is not None and row["prepared"]:
            raise Unprovable("its holder left prepared transactions", leftovers=found, cause=Cause.PREPARED)
        now_starting = set(row["starting"])
        starting = now_starting if starting is None else starting & now_starting
        if found is not None and not row["inside"] and not starting:
            if row["inspection"] is None:
                raise Unprovable("its login does not exist any more", leftovers=found, cause=Cause.LOGIN)
            inspection = query.inspection(json.loads(row["inspection"]))
            return found, replace(inspection, vacuuming=True) if row["vacuuming"] else inspection
        starting -= set(row["authenticating"])
        if found is not None and not row["inside"] and not starting:
            continue
        if waited >= (GONE_SECONDS if row["inside"] else STARTUP_SECONDS):
            raise _timeout_error(site, row["inside"], found)
        await asyncio.sleep(_POLL_SECONDS)


def _timeout_error(site: Site, pids: list[str], found: Leftovers | None) -> Exception:
    if not pids:
        return Unprovable(
            "a session is being started, and does not appear in time", leftovers=found, cause=Cause.SESSIONS
        )
    named = ", ".join(pids)
    return BackendUnavailable(f"backends of {site.login} do not end: {named}", retry_after_seconds=1.0)


async def _terminate_counting(session: Session, site: Site, pids: list[str], waited: float) -> list[int]:
    """Terminate these backends. Return the number of advisory locks of each."""
    try:
        rows = await session.fetch(_TERMINATE_COUNTING, site.login, pids, site.schema is None)
    except asyncpg.InsufficientPrivilegeError as error:
        if waited >= PRIVILEGED_SECONDS:
            raise Unprovable("a session of a role with more rights is in it", cause=Cause.SESSIONS) from error
        return []
    return [one["locks"] for one in rows]


async def wait_for_starting(connection: Connection) -> None:
    """Wait until every backend that is starting now has appeared or ended, at most ``STARTUP_SECONDS``."""
    until = monotonic() + STARTUP_SECONDS
    waited_for: set[int] | None = None
    while True:
        rows = await connection.fetch(_STARTING)
        starting = {row["pid"] for row in rows}
        waited_for = starting if waited_for is None else waited_for & starting
        if not waited_for or monotonic() >= until:
            return
        waited_for -= {row["pid"] for row in rows if row["authenticating"]}
        if waited_for:
            await asyncio.sleep(_POLL_SECONDS)


async def terminate(
    connection: Connection, server: Server, *, role_oids: list[int], database_oid: int | None = None
) -> None:
    """Terminate all backends of these roles, and all clients in this database, until none is left.

    Raises:
        BackendUnavailable: a backend did not end in time, or the service may not terminate it.
    """
    began = monotonic()
    while True:
        try:
            left = await connection.fetch(_TERMINATE, role_oids, database_oid)
        except asyncpg.InsufficientPrivilegeError as error:
            if monotonic() - began < PRIVILEGED_SECONDS:
                await asyncio.sleep(_POLL_SECONDS)
                continue
            raise BackendUnavailable(
                f"on the server {server.name} a role with more rights than {server.role} is connected to a database of "
                "freshdb's: end that session, so that the database can be cleaned",
                retry_after_seconds=5.0,
            ) from error
        if not left:
            return
        if monotonic() - began >= GONE_SECONDS:
            pids = ", ".join(str(row["pid"]) for row in left)
            raise BackendUnavailable(f"on the server {server.name} backends do not end: {pids}")
        await asyncio.sleep(_POLL_SECONDS)
