"""Templates: create an empty database for a builder, and seal it when the build is finished.

A builder gets its own database and owns it. ``seal`` ends this: the builder's login is disabled and its backends are
terminated, and the database belongs to the service and admits no connection. So it never changes again, and every clone of
it is the same. The builder's role stays, without a login, as the owner of the objects in it. Each clone transfers them to
its own login.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import asyncpg

from freshdb_reset import COUNTED_PAGES
from freshdb_service.errors import BuildLost, FreshdbError
from freshdb_service.postgres import ownership
from freshdb_service.postgres.blockers import allow_connections, roll_back_prepared
from freshdb_service.postgres.drop import drop_template
from freshdb_service.postgres.fencing.fence import fence, terminate, wait_for_starting
from freshdb_service.postgres.names import Kind, Name, quoted
from freshdb_service.postgres.ownership import OwnedDatabase
from freshdb_service.postgres.provision.clone import clone
from freshdb_service.postgres.provision.extensions import (
    ExtensionForm,
    install,
    read_available,
    read_extensions,
)
from freshdb_service.postgres.provision.planner_statistics import (
    gather_statistics,
    unset_empty_tables,
    vacuum,
)
from freshdb_service.postgres.roles import create_login
from freshdb_service.postgres.server.connections import Connection, Login, operation
from freshdb_service.postgres.server.server import Server

_log = logging.getLogger(__name__)
_ANALYZE_SECONDS: Final = 600.0
_PATH: Final = "public"
"""Search path of the builder's functions, which find each other there."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A template that never changes again: its database, the size of it on disk, and ``empty`` if nothing was built."""

    database: str
    size_bytes: int
    empty: bool


@operation
async def create_build(
    server: Server, template_id: UUID, attempt: int, extensions: Sequence[ExtensionForm]
) -> Login:
    """Create an empty database with these extensions (see ``extensions``), and a login that owns it.

    Raises:
        InvalidRequest: the server has no such extension, or only a superuser may install it.
        Conflict: this attempt exists: another worker creates it.
        BackendUnavailable: the server is unavailable.
    """
    name = server.name_of(Kind.TEMPLATE, template_id, attempt)
    wanted = read_extensions(extensions)
    async with server.maintenance() as connection:
        available = await read_available(connection, server, wanted)
        password = await create_login(connection, server, name)
    try:
        await clone(server, name, None)
        await install(server, name, wanted, available)
    except BaseException:
        with suppress(FreshdbError, asyncpg.PostgresError):
            await drop_template(server, template_id, below_attempt=attempt + 1)
        raise
    return Login(database=str(name), schema=None, user=str(name), password=password)


@operation
async def seal(server: Server, template_id: UUID, attempt: int) -> Sealed:
    """Seal a build. A sealed build stays as it is.

    Raises:
        BuildLost: the build's database does not exist.
        BackendUnavailable: the server is unavailable, or a session did not end.
    """
    name = server.name_of(Kind.TEMPLATE, template_id, attempt)
    async with server.maintenance() as connection:
        database = await _find(connection, server, name)
        roles = [
            one for one in await ownership.roles(connection, server, kind=Kind.TEMPLATE) if one.name == name
        ]
        if database is None or not roles:
            raise BuildLost(
                f"on the server {server.name} the database {name} does not exist: the build was abandoned"
            )
        empty = (
            False  # unknown, if a worker died after it had closed the database: nothing can connect any more
        )
        if database.owner_oid == roles[0].oid:  # the owner changes last, in ``_close``
            await fence(connection, server, roles)
            await terminate(connection, server, role_oids=[], database_oid=database.oid)
            await roll_back_prepared(connection, server, owners=[], database=str(name))
            await allow_connections(connection, server, {str(name)})
            empty = await _is_empty(server, name)
            await _analyze(server, name)
            await _close(connection, server, name)
        # A backend that was admitted just before is visible by now, or still starting. No other can connect any more.
        await wait_for_starting(connection)
        await terminate(connection, server, role_oids=[], database_oid=database.oid)
        size_bytes = await ownership.database_bytes(connection, database.oid)
        return Sealed(database=str(name), size_bytes=size_bytes, empty=empty)


async def _is_empty(server: Server, name: Name) -> bool:
    """Return true if the builder created no object. Extensions that the service installed do not count."""
    async with server.inside(str(name)) as connection:
        empty: bool = await connection.fetchval(_EMPTY)
        return empty


async def _analyze(server: Server, name: Name) -> None:
    """Put the storage in the state that resets can restore, and gather statistics once, so that every clone has them.

    Rows of small tables are written again, one after the other, as a reset would load them. All rows are frozen, so that no
    clone is vacuumed for old rows. Sequences lose the values that PostgreSQL had logged ahead.

    This runs functions in index expressions (as their owner, in PostgreSQL's restricted mode), so it can fail. A template
    without statistics still works.
    """
    async with server.inside(str(name), command_timeout_seconds=_ANALYZE_SECONDS) as connection:
        try:
            small = await connection.fetchval(_SMALL_TABLES, COUNTED_PAGES)
            if small is not None:
                await vacuum(connection, "FULL, FREEZE", small, path=_PATH)
            if server.is_superuser:
                await vacuum(connection, "FREEZE", "", path=_PATH)  # the catalogs, too
                await unset_empty_tables(connection, None)
            await gather_statistics(connection, None, path=_PATH)
            for row in await connection.fetch(_SEQUENCES):
                await connection.execute(
                    f"SELECT setval($1::text::regclass, last_value, is_called) FROM {row[0]}", row[0]
                )
            if server.is_superuser:
                await connection.execute("SELECT pg_stat_reset()")  # or autovacuum would find something to do
        except asyncpg.PostgresError as error:
            _log.warning("no statistics for the template %s on the server %s: %s", name, server.name, error)


async def _close(connection: Connection, server: Server, name: Name) -> None:
    """Stamp the database again (the builder could change the comment), close it, and own it, in one transaction."""
    database = quoted(name)
    await connection.execute(
        f"COMMENT ON DATABASE {database} IS {server.quoted_stamp}; "
        f"REVOKE ALL ON DATABASE {database} FROM PUBLIC; "
        f"ALTER DATABASE {database} IS_TEMPLATE false CONNECTION LIMIT -1 ALLOW_CONNECTIONS false; "
        f"ALTER DATABASE {database} OWNER TO CURRENT_USER"
    )


_EMPTY: Final = """
SELECT NOT EXISTS (
    SELECT FROM (
        SELECT 'pg_class'::regclass AS catalog, oid FROM pg_class WHERE relpersistence <> 't'
        UNION ALL SELECT 'pg_proc', oid FROM pg_proc
        UNION ALL SELECT 'pg_type', oid FROM pg_type
        UNION ALL SELECT 'pg_namespace', oid FROM pg_namespace n
                  WHERE NOT EXISTS (SELECT FROM pg_extension e WHERE e.extnamespace = n.oid)
        UNION ALL SELECT 'pg_foreign_server', oid FROM pg_foreign_server
        UNION ALL SELECT 'pg_publication', oid FROM pg_publication
        UNION ALL SELECT 'pg_largeobject', oid FROM pg_largeobject_metadata
    ) AS object
    WHERE oid >= 16384
      AND NOT EXISTS (
          SELECT FROM pg_depend d WHERE d.classid = object.catalog AND d.objid = object.oid AND d.deptype IN ('e', 'i')
      )
)
"""

_SMALL_TABLES: Final = """
SELECT string_agg(c.oid::regclass::text, ', ') FROM pg_class c
WHERE c.relkind = 'r' AND c.oid >= 16384 AND c.relpersistence <> 't'
  AND pg_relation_size(c.oid) / current_setting('block_size')::int BETWEEN 1 AND $1::int
"""

_SEQUENCES: Final = """
SELECT oid::regclass::text FROM pg_class WHERE relkind = 'S' AND oid >= 16384 AND relpersistence <> 't'
"""


async def _find(connection: Connection, server: Server, name: Name) -> OwnedDatabase | None:
    found = await ownership.databases(connection, server, kind=Kind.TEMPLATE)
    return next((one for one in found if one.name == name), None)
