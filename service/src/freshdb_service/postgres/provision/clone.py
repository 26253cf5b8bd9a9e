"""Isolation ``database``: clone a template, and transfer the clone to its own login.

A clone is created closed (``ALLOW_CONNECTIONS false``), gets its stamp, loses the privileges of PUBLIC (``REVOKE ALL …``),
and is opened then. So there is no moment at which another login could connect to it.

The objects in it belong to the role that built the template, and are transferred to the login (``REASSIGN OWNED``). The
default privileges, policies and user mappings that name the builder, and the settings of the template's database and
builder, are transferred too, because neither ``CREATE DATABASE`` nor ``REASSIGN`` copies them. Afterwards nothing in the
clone names the builder.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from time import monotonic
from typing import Final
from uuid import UUID

import asyncpg

from freshdb_service.errors import BackendUnavailable, FreshdbError, TemplateNotFound
from freshdb_service.postgres import ownership
from freshdb_service.postgres.drop import drop_database
from freshdb_service.postgres.fencing.fence import terminate
from freshdb_service.postgres.names import Kind, Name, quoted
from freshdb_service.postgres.roles import create_login
from freshdb_service.postgres.server.connections import SETTINGS, Connection, Login, operation
from freshdb_service.postgres.server.server import Server

_log = logging.getLogger(__name__)
_CLONE_SECONDS: Final = 30.0
"""Time for which a clone is retried while a session is in the template."""
COPY_TIMEOUT_SECONDS: Final = 600.0
"""Timeout for copying a template's files."""
_RETRY_SECONDS: Final = 0.02


@operation
async def provision_database(
    server: Server, database_id: UUID, generation: int, template_database: str
) -> Login:
    """Clone a template for one generation of a database, with its own login.

    Raises:
        Conflict: this generation exists: another worker creates it.
        TemplateNotFound: the template's database does not exist.
        BackendUnavailable: the server is unavailable, or too slow.
    """
    name = server.name_of(Kind.DATABASE, database_id, generation)
    async with server.maintenance() as connection:
        password = await create_login(connection, server, name)
    try:
        await clone(server, name, template_database)
        await transfer_ownership(server, str(name), template_database, name)
    except BaseException:
        with suppress(FreshdbError, asyncpg.PostgresError):
            await drop_database(server, database_id, below_generation=generation + 1)
        raise
    return Login(database=str(name), schema=None, user=str(name), password=password)


async def clone(server: Server, name: Name, template_database: str | None) -> None:
    """Create a database that belongs to the role of the same name, and to which no other role may connect.

    Args:
        server: where.
        name: name of the database and of its owner.
        template_database: name of the template's database, or ``None`` for an empty database.

    Raises:
        TemplateNotFound: the template's database does not exist.
        BackendUnavailable: a session in the template did not end.
    """
    strategy = "FILE_COPY" if server.file_copy else "WAL_LOG"
    statement = (
        f"CREATE DATABASE {quoted(name)} OWNER {quoted(name)} TEMPLATE {quoted(template_database or 'template0')} "
        f"STRATEGY {strategy} ALLOW_CONNECTIONS false"
    )
    until = monotonic() + _CLONE_SECONDS
    async with server.maintenance() as connection:
        while True:
            try:
                await connection.execute(statement, timeout=COPY_TIMEOUT_SECONDS)
            except asyncpg.ObjectInUseError as error:
                # Only short sessions of the service are ever in a sealed template.
                if template_database is None or monotonic() >= until:
                    raise BackendUnavailable(
                        f"on the server {server.name} the database {template_database} is in use: {error.detail or error}",
                        retry_after_seconds=5.0,
                    ) from error
                await _clear(connection, server, template_database)
                await asyncio.sleep(_RETRY_SECONDS)
            except asyncpg.InvalidCatalogNameError as error:
                raise TemplateNotFound(
                    f"on the server {server.name} the database {template_database} does not exist"
                ) from error
            else:
                break
        await connection.execute(
            f"REVOKE ALL ON DATABASE {quoted(name)} FROM PUBLIC; "
            f"COMMENT ON DATABASE {quoted(name)} IS {server.quoted_stamp}; "
            f"ALTER DATABASE {quoted(name)} ALLOW_CONNECTIONS true"
        )


async def transfer_ownership(server: Server, database: str, template_database: str, heir: Name) -> None:
    """Transfer all objects, privileges and settings of a template's builder in a clone to ``heir``."""
    builder = Name.parse(server.options.prefix, template_database)
    if builder is None or builder.kind is not Kind.TEMPLATE:
        raise TemplateNotFound(f"{template_database} is no template of this installation")
    async with server.inside(database) as connection:
        role_oid = await _oid_of(connection, str(builder))
        if role_oid is None:
            raise TemplateNotFound(
                f"on the server {server.name} the role {builder} does not exist: the template is being dropped"
            )
        async with connection.transaction():
            # Schemas first: without a superuser, an object can only be given to a role that may create in its schema.
            for row in await connection.fetch(
                "SELECT nspname FROM pg_namespace WHERE nspowner = $1", role_oid
            ):
                await connection.execute(f"ALTER SCHEMA {quoted(row['nspname'])} OWNER TO {quoted(heir)}")
            await connection.execute(f"REASSIGN OWNED BY {quoted(builder)} TO {quoted(heir)}")
            mappings = await _user_mappings(connection, server, role_oid, str(heir))
            for statement in [*await _remaining_statements(connection, role_oid, str(heir)), *mappings]:
                await connection.execute(statement)
            await _copy_settings(connection, role_oid, template_database, str(heir))
            if await _has_dependencies(connection, role_oid):
                await connection.execute(f"DROP OWNED BY {quoted(builder)}")


async def default_privileges(connection: Connection, role: str) -> list[str]:
    """Return statements that restore the default privileges of a role that are not limited to a schema."""
    rows = await connection.fetch(_DEFAULT_PRIVILEGES, await _oid_of(connection, role), role)
    return [str(row["statement"]) for row in rows if row["everywhere"]]


async def _clear(connection: Connection, server: Server, template_database: str) -> None:
    for database in await ownership.databases(connection, server, kind=Kind.TEMPLATE):
        if str(database.name) == template_database:
            await terminate(connection, server, role_oids=[], database_oid=database.oid)


async def _oid_of(connection: Connection, role: str) -> int | None:
    found: int | None = await connection.fetchval("SELECT oid FROM pg_roles WHERE rolname = $1", role)
    return found


async def _remaining_statements(connection: Connection, builder_oid: int, heir: str) -> list[str]:
    """Return statements that transfer the builder's default privileges, and its place in policies, to the heir."""
    defaults = await connection.fetch(_DEFAULT_PRIVILEGES, builder_oid, heir)
    policies = await connection.fetch(_POLICIES, builder_oid, heir)
    return [str(row["statement"]) for row in (*defaults, *policies)]


async def _user_mappings(connection: Connection, server: Server, builder_oid: int, heir: str) -> list[str]:
    """Return statements that give the heir the builder's user mappings. Only a superuser may read them."""
    rows = await connection.fetch(_USER_MAPPINGS, builder_oid, heir) if server.is_superuser else []
    return [str(row["statement"]) for row in rows]


async def _copy_settings(connection: Connection, builder_oid: int, template_database: str, heir: str) -> None:
    """Copy the settings of the template to the clone, and those of its builder to the heir."""
    for row in await connection.fetch(_SETTINGS_OF, template_database, builder_oid, heir):
        if not row["is_list"]:
            await connection.execute(f"{row['target']} TO {row['quoted_value']}")
            continue
        # No statement accepts the stored form of a list of identifiers, so the session takes it and passes it on.
        # No other setting is applied to this session: it is the service's, and the value is the builder's.
        await connection.execute("SELECT pg_catalog.set_config($1, $2, true)", row["setting"], row["value"])
        await connection.execute(f"{row['target']} FROM CURRENT")
        await connection.execute(f"SET LOCAL search_path TO {SETTINGS['search_path']}")


async def _has_dependencies(connection: Connection, role_oid: int) -> bool:
    found: bool = await connection.fetchval(
        """
        SELECT EXISTS (
            SELECT FROM pg_shdepend
            WHERE refclassid = 'pg_authid'::regclass AND refobjid = $1
              AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
        )
        """,
        role_oid,
    )
    return found


_DEFAULT_PRIVILEGES: Final = """
WITH entry AS (
    SELECT a.oid, a.defaclacl, n.nspname,
           format('ALTER DEFAULT PRIVILEGES FOR ROLE %I', $2::text)
             || CASE WHEN n.oid IS NULL THEN '' ELSE format(' IN SCHEMA %I', n.nspname) END AS head,
           CASE a.defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' WHEN 'f' THEN 'ROUTINES'
                                WHEN 'T' THEN 'TYPES' WHEN 'n' THEN 'SCHEMAS' ELSE 'LARGE OBJECTS' END AS kind
    FROM pg_default_acl a LEFT JOIN pg_namespace n ON n.oid = a.defaclnamespace
    WHERE a.defaclrole = $1
)
-- An entry without a schema replaces the built-in defaults. One with a schema adds to them.
SELECT 1 AS step, true AS everywhere, format('%s REVOKE ALL ON %s FROM PUBLIC, %I', head, kind, $2::text) AS statement
FROM entry WHERE nspname IS NULL
UNION ALL
SELECT 2, nspname IS NULL, format('%s GRANT %s ON %s TO %s%s', head, p.privilege_type, kind,
                 CASE p.grantee WHEN 0 THEN 'PUBLIC' WHEN $1 THEN quote_ident($2::text)
                                ELSE quote_ident(pg_get_userbyid(p.grantee)) END,
                 CASE WHEN p.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
FROM entry, aclexplode(entry.defaclacl) p
ORDER BY step, statement
"""

_POLICIES: Final = """
SELECT format('ALTER POLICY %I ON %I.%I TO %s', p.polname, n.nspname, c.relname,
              string_agg(CASE r.role WHEN 0 THEN 'PUBLIC' WHEN $1 THEN quote_ident($2::text)
                                     ELSE quote_ident(pg_get_userbyid(r.role)) END, ', ' ORDER BY r.place)) AS statement
FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace,
     unnest(p.polroles) WITH ORDINALITY AS r (role, place)
WHERE $1 = ANY (p.polroles)
GROUP BY p.oid, p.polname, n.nspname, c.relname
"""

_USER_MAPPINGS: Final = """
SELECT format('CREATE USER MAPPING FOR %I SERVER %I', $2::text, s.srvname)
         || coalesce(' OPTIONS (' || (SELECT string_agg(format('%I %L', option_name, option_value), ', ')
                                      FROM pg_options_to_table(m.umoptions)) || ')', '') AS statement
FROM pg_user_mapping m JOIN pg_foreign_server s ON s.oid = m.umserver
WHERE m.umuser = $1
"""

_SETTINGS_OF: Final = """
WITH stored AS (
    SELECT s.setrole <> 0 AS of_role, split_part(one, '=', 1) AS setting, substr(one, strpos(one, '=') + 1) AS value,
           s.setdatabase = 0 AS everywhere
    FROM pg_db_role_setting s LEFT JOIN pg_database d ON d.oid = s.setdatabase, unnest(s.setconfig) AS one
    WHERE ((d.datname = $1 AND s.setrole IN (0, $2)) OR (s.setdatabase = 0 AND s.setrole = $2))
      AND one NOT LIKE 'temp!_file!_limit=%' ESCAPE '!'  -- every login has a limit of its own
)
SELECT setting, value, quote_literal(value) AS quoted_value,
       setting IN ('search_path', 'temp_tablespaces', 'local_preload_libraries', 'session_preload_libraries') AS is_list,
       CASE WHEN of_role THEN format('ALTER ROLE %I IN DATABASE %I', $3::text, current_database())
            ELSE format('ALTER DATABASE %I', current_database()) END
         || ' SET ' || (SELECT string_agg(quote_ident(part), '.' ORDER BY place)
                        FROM regexp_split_to_table(setting, '[.]') WITH ORDINALITY AS p (part, place)) AS target
FROM stored ORDER BY everywhere DESC, setting
"""
