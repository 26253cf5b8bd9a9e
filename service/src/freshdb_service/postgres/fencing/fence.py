"""Fencing: the old login stops working, its backends are terminated and gone, its prepared transactions rolled back.

In this order: the role gets ``NOLOGIN`` in a transaction that commits; then every backend of the role is terminated, again
and again until none is left; then what it prepared for a second phase is rolled back. What remains to be said is why
nobody slips through.

*A backend that is being started* has been authenticated, but is not in ``pg_stat_activity`` yet (or, from PostgreSQL 18 on,
is there without a user): the loop does not see it. If it looks at its role after the commit it is refused. If it looked
before, it is inside the transaction that every start-up is, and shows a virtual transaction id in ``pg_locks`` until it
appears in ``pg_stat_activity``, which happens before that transaction ends. So: after the commit, every process that holds
a virtual transaction id and has no user is waited for. Each either vanishes or appears, and what appears is terminated. The
locks are read before the picture of who is there is taken: one that arrives between a picture and a later look at the locks
would be in neither. From PostgreSQL 18 on the picture alone has both, those who are there and those who are being started.

*A client that takes its time over its password* looks the same, and has its look at the role still before it. From
PostgreSQL 18 on it can be told: its backend waits for the client and has no user. The one is read live, the other from a
picture that is taken once per transaction; so who was seen waiting counts only in the next transaction, if there is no
user even then. A backend has a user once and for all: there was none either when it waited. Otherwise the wait is bounded.

*And if the bound is passed:* for isolation ``database``, ``DROP DATABASE`` does not need any of this; it looks at every
process, whether visible or not, and fails as long as one is in the database. For isolation ``schema``, each generation has a
role of its own with rights of its own: a backend that slipped through is one whose role is dropped, and it reaches nothing;
once the role is gone, it is terminated by the role's OID.

On a server that asks for no password (``trust``) it holds for the same reasons: the old role does not exist any longer, and
nobody but its own login may connect to the new database.
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
from freshdb_service.postgres.roles import close, forbid_login
from freshdb_service.postgres.server.connections import SETTINGS, Connection
from freshdb_service.postgres.server.server import Server
from freshdb_service.postgres.server.session_cache import Session

GONE_SECONDS: Final = 15.0
"""How long terminated backends may take to be gone."""
STARTUP_SECONDS: Final = 1.0
"""How long backends that are being started are waited for."""
PRIVILEGED_SECONDS: Final = 2.0
"""How long sessions that are not ours to end (a superuser's, say, who has a look) are waited for."""
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
"""From this version on ``pg_stat_activity`` shows backends from before they are authenticated."""

_LOCKED: Final = "ARRAY(SELECT pid FROM pg_locks WHERE locktype = 'virtualxid' AND pid <> pg_backend_pid())"
_NOBODY: Final = "ARRAY[]::integer[]"

_SHUT_OUT = """
WITH me AS MATERIALIZED ({me}  -- once the login has another name, nobody is ours to end
), locked AS MATERIALIZED (
    SELECT {locked} AS pids
), backends AS MATERIALIZED (  -- the picture, taken when the locks have been read: see above
    SELECT id, pg_stat_get_backend_pid(id) AS pid, pg_stat_get_backend_userid(id) AS role,
           pg_stat_get_backend_dbid(id) AS database
    FROM locked CROSS JOIN LATERAL (SELECT pg_stat_get_backend_idset() AS id WHERE cardinality(locked.pids) >= 0) one
), open AS MATERIALIZED (
    SELECT b.pid FROM me, backends b
    WHERE (b.role = me.login OR ($2::text IS NULL AND b.database = me.database AND b.role <> 0
                                 -- The service's own write nothing there. What may not be known is not ours.
                                 AND (b.role <> to_regrole(quote_ident(session_user))
                                      OR NOT EXISTS (SELECT FROM pg_stat_get_activity(b.pid) a
                                                     WHERE a.application_name = '{ours}'))))
      AND b.pid <> pg_backend_pid()
), starting AS MATERIALIZED (  -- PostgreSQL's own processes have no client
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
       -- Autovacuum's workers have no user. They run functions in index expressions.
       CASE WHEN NOT EXISTS (SELECT FROM me, backends b WHERE b.role = 0 AND b.database = me.database) THEN false
            WHEN $2::text IS NULL THEN true
            ELSE EXISTS (SELECT FROM me, backends b JOIN pg_locks l USING (pid) JOIN pg_class c ON c.oid = l.relation
                         WHERE b.role = 0 AND b.database = me.database AND c.relnamespace = me.schema) END
         AS vacuuming,
       -- Evaluated in this order, so that what is seen is what those have left who are gone.
       CASE WHEN NOT EXISTS (SELECT FROM open)
             AND NOT EXISTS (SELECT FROM starting WHERE $7::text[] IS NULL OR pid::text = ANY ($7::text[]))
            THEN (SELECT to_json(look)::text FROM ({look}) look) END AS seen
""".replace("{ours}", SETTINGS["application_name"]).replace("{me}", OIDS)

_THROW_OUT = """
SELECT a.pid, (SELECT count(*) FROM pg_locks l WHERE l.pid = a.pid AND l.locktype = 'advisory')::int AS locks,
       pg_terminate_backend(a.pid)
FROM pg_stat_activity a JOIN pg_roles r ON r.rolname = $1  -- as above
WHERE a.pid::text = ANY ($2::text[]) AND (a.usesysid = r.oid OR ($3::bool AND a.datname = current_database()))
"""


async def fence(connection: Connection, server: Server, roles: list[OwnedObject]) -> None:
    """Shut these roles out: nobody is in as one of them when this returns, nor gets in any more.

    Raises:
        BackendUnavailable: a backend would not end in time.
    """
    if not roles:
        return
    for role in roles:
        await forbid_login(connection, server, role)
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
        await forbid_login(connection, server, role)
    await settle_starting(connection)
    await fence(connection, server, roles)


async def shut_out(
    session: Session, site: Site, question: InspectionQuery, *, sees_all: bool = True
) -> tuple[Leftovers, Inspection]:
    """Shut a login out from within its database, and look at what it has left behind there.

    Args:
        session: inside the database. Unless that is shared, nobody else has any business there, and is shut out, too.
        site: whose backends are terminated.
        question: asked as soon as nobody is in.
        sees_all: whether the session's role may see all of ``pg_stat_activity``.

    Returns:
        what its holder had not closed, and the answer.

    Raises:
        Unprovable: something is prepared for a second phase; somebody is being let in, and does not arrive; or login or
            schema are gone.
        BackendUnavailable: a backend would not end in time.
    """
    if not await close(session, site.login):
        raise Unprovable("its login is gone", cause=Cause.LOGIN)
    visible = sees_all and session.get_server_version().major >= _STARTING_IS_VISIBLE
    query = _SHUT_OUT.replace("{locked}", _NOBODY if visible else _LOCKED).replace("{look}", question.query)
    values, began = question.values, monotonic()
    found: Leftovers | None = None
    starting: set[str] | None = None
    while True:
        waited = monotonic() - began
        awaited = None if starting is None else list(starting)
        [row] = await session.fetch(query, site.login, site.schema, *values, awaited)
        ended: list[int] = []
        if row["inside"] and waited >= CLOSING_SECONDS:
            ended = await _throw_out(session, site, row["inside"], waited)
        if found is None and (ended or not row["inside"]):
            found = Leftovers(len(ended), row["prepared"], sum(ended))
        if found is not None and row["prepared"]:
            raise Unprovable(
                "transactions were prepared for a second phase", leftovers=found, cause=Cause.PREPARED
            )
        now_starting = set(row["starting"])
        starting = now_starting if starting is None else starting & now_starting
        if found is not None and not row["inside"] and not starting:
            if row["seen"] is None:
                raise Unprovable("its login is gone", leftovers=found, cause=Cause.LOGIN)
            inspection = question.inspection(json.loads(row["seen"]))
            return found, replace(inspection, vacuuming=True) if row["vacuuming"] else inspection
        starting -= set(row["authenticating"])
        if found is not None and not row["inside"] and not starting:
            continue
        if waited >= (GONE_SECONDS if row["inside"] else STARTUP_SECONDS):
            raise _too_long(site, row["inside"], found)
        await asyncio.sleep(_POLL_SECONDS)


def _too_long(site: Site, pids: list[str], found: Leftovers | None) -> Exception:
    if not pids:
        return Unprovable(
            "somebody is connecting, and cannot be seen yet", leftovers=found, cause=Cause.SESSIONS
        )
    named = ", ".join(pids)
    return BackendUnavailable(f"these backends of {site.login} do not end: {named}", retry_after_seconds=1.0)


async def _throw_out(session: Session, site: Site, pids: list[str], waited: float) -> list[int]:
    """Terminate these backends; how many advisory locks each had."""
    try:
        rows = await session.fetch(_THROW_OUT, site.login, pids, site.schema is None)
    except asyncpg.InsufficientPrivilegeError as error:
        if waited >= PRIVILEGED_SECONDS:
            raise Unprovable("somebody with more rights is in it", cause=Cause.SESSIONS) from error
        return []
    return [one["locks"] for one in rows]


async def settle_starting(connection: Connection) -> None:
    """Wait until every backend that is being started right now can be seen, or is gone. Bounded."""
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
    """Terminate every backend of these roles, and every client in this database, until none is left.

    Raises:
        BackendUnavailable: one would not end in time, or may not be ended by us.
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
                f"on the server {server.name} somebody with more rights than {server.role} is connected to a database of "
                "freshdb's; it can be cleaned when they have left",
                retry_after_seconds=5.0,
            ) from error
        if not left:
            return
        if monotonic() - began >= GONE_SECONDS:
            pids = ", ".join(str(row["pid"]) for row in left)
            raise BackendUnavailable(f"on the server {server.name} these backends do not end: {pids}")
        await asyncio.sleep(_POLL_SECONDS)
