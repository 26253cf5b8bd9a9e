"""Extensions of a template: install them in an empty database before its builder gets it, and grant what they offer.

Trusted extensions are installed as the builder, and belong to it. The service installs all others, so a superuser may own
their tables, functions and foreign-data wrappers. The builder gets rights on these *members*, and so do holders of clones.
All rights are granted to PUBLIC: only the login of the lease may connect to a clone, and ``CREATE DATABASE`` copies
privileges of PUBLIC as they are. A shared database (isolation ``schema``) takes them back (``take_back_writing``).

* Only extensions that the setting ``writable_extensions`` names get these rights: reading and writing tables, sequences,
  and ``USAGE`` of foreign-data wrappers and schemas. Rows of other extensions can be commands, such as the directories of
  ``utl_file`` (orafce), or jobs of a background worker that is a superuser.
* ``TRIGGER`` is never granted. A trigger of a holder would run with the rights of the session that writes.
* No right to execute a function is ever granted.
* Some functions run with their owner's rights and do not set a search path, as PostgreSQL's manual requires ("Writing
  SECURITY DEFINER Functions Safely"). PUBLIC may not execute these functions. An extension that runs one by an event
  trigger is refused, because no privilege prevents that.
* Functions of orafce that work with memory of the whole server connect databases with each other. PUBLIC may not
  execute them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import asyncpg

from freshdb_service.errors import InvalidRequest
from freshdb_service.postgres.names import Name, quoted
from freshdb_service.postgres.server.connections import Connection
from freshdb_service.postgres.server.server import Server

ExtensionForm: TypeAlias = str | Mapping[str, str]
"""An extension in a request and in the control plane: its name, or an object with ``name``, ``schema`` and ``version``."""

_INSTALL_SECONDS: Final = 600.0
_OUTAGES: Final = (
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresConnectionError,
)
_CROSSING: Final = ("dbms_pipe", "dbms_alert")
"""Schemas whose functions work with memory that all databases of the server share."""


@dataclass(frozen=True, slots=True)
class Extension:
    """An extension, with its schema and version if the template names them."""

    name: str
    schema: str | None = None
    version: str | None = None

    @classmethod
    def read(cls, form: ExtensionForm) -> Extension:
        """Read the form of a request."""
        return cls(form) if isinstance(form, str) else cls(**form)

    @property
    def form(self) -> ExtensionForm:
        """The shortest form: a text if only the name is set."""
        named = {"name": self.name, "schema": self.schema, "version": self.version}
        given = {key: value for key, value in named.items() if value is not None}
        return self.name if len(given) == 1 else given


@dataclass(frozen=True, slots=True)
class Available:
    """The versions of an extension on a server, and facts about the one to install."""

    versions: Sequence[str]
    trusted: bool
    has_own_schema: bool
    requires: Sequence[str]


def read_extensions(forms: Sequence[ExtensionForm]) -> list[Extension]:
    """Read the forms of a request, each extension once.

    Raises:
        InvalidRequest: two entries name one extension with different schemas or versions.
    """
    found = list(dict.fromkeys(Extension.read(form) for form in forms))
    names = [one.name for one in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise _invalid(
            f"the extension {twice[0]} is named twice, with different schemas or versions: keep one of the entries"
        )
    return found


async def read_available(
    connection: Connection, server: Server, extensions: Sequence[Extension]
) -> Mapping[str, Available]:
    """Read the extensions of a server, and check that it has these ones in these versions.

    Raises:
        InvalidRequest: it lacks one.
    """
    versions = {one.name: one.version for one in extensions if one.version is not None}
    rows = await connection.fetch(_AVAILABLE, list(versions), list(versions.values()))
    available = {
        row["name"]: Available(row["versions"], row["trusted"], row["has_own_schema"], row["requires"])
        for row in rows
    }
    unknown = sorted({one.name for one in extensions} - available.keys())
    if unknown:
        names = ", ".join(available)
        raise _invalid(
            f"the server {server.name} does not have the extension {', '.join(unknown)}: it has {names}"
        )
    for one in extensions:
        there = available[one.name].versions
        if one.version is not None and one.version not in there:
            raise _invalid(
                f"the server {server.name} does not have version {one.version} of the extension {one.name}: "
                f"it has {', '.join(there)}"
            )
    return available


async def install(
    server: Server, name: Name, extensions: Sequence[Extension], available: Mapping[str, Available]
) -> None:
    """Install extensions in a database that no client has entered yet, and grant what they offer.

    Raises:
        InvalidRequest: an extension cannot be installed, or would make its users superusers.
    """
    for extension in _in_order(extensions, available):
        # A session for each one: some scripts append to the search path that the session began with.
        async with server.installing(str(name), command_timeout_seconds=_INSTALL_SECONDS) as connection:
            try:
                async with connection.transaction():
                    await _install(connection, name, extension, available[extension.name])
                    await _secure(connection, server, name, extension)
            except _OUTAGES:
                raise
            except asyncpg.InsufficientPrivilegeError as error:
                raise _invalid(
                    f"only a superuser can install the extension {extension.name}, and on the server {server.name} the "
                    f"role {server.role} is none: {error}"
                ) from error
            except asyncpg.PostgresError as error:
                raise _invalid(
                    f"the server {server.name} cannot install the extension {extension.name}: {error}"
                ) from error


async def take_back_writing(connection: Connection) -> None:
    """Take from PUBLIC every right to write to members of extensions, in a database that leases share."""
    for row in await connection.fetch(_REVOKE_WRITING):
        await connection.execute(row["statement"])


async def _install(connection: Connection, builder: Name, extension: Extension, facts: Available) -> None:
    await connection.execute("SET LOCAL search_path TO public")
    statement = f"CREATE EXTENSION IF NOT EXISTS {quoted(extension.name)}"
    if extension.schema is not None:
        if not facts.has_own_schema:
            await connection.execute(
                f"CREATE SCHEMA IF NOT EXISTS {quoted(extension.schema)} AUTHORIZATION {quoted(builder)}"
            )
        statement += f" SCHEMA {quoted(extension.schema)}"
    if extension.version is not None:
        statement += f" VERSION {quoted(extension.version)}"
    if facts.trusted:
        await connection.execute(f"SET LOCAL ROLE {quoted(builder)}")
    await connection.execute(f"{statement} CASCADE")
    await connection.execute("RESET ROLE; SET LOCAL search_path TO pg_catalog, pg_temp")
    [row] = await connection.fetch(_INSTALLED, extension.name)
    there = Extension(extension.name, row["schema"], row["version"])
    if extension.schema not in {None, there.schema} or extension.version not in {None, there.version}:
        raise _invalid(
            f"the extension {extension.name} is installed in the schema {there.schema} with version {there.version}: "
            "name no other schema or version"
        )


async def _secure(connection: Connection, server: Server, builder: Name, extension: Extension) -> None:
    """Take dangerous rights of PUBLIC from what was just installed, and grant what it offers."""
    unsafe = await connection.fetchval(_UNSAFE_EVENT_TRIGGERS)
    if unsafe is not None:
        raise _invalid(
            f"the extension {extension.name} is not safe to share with holders, so freshdb does not install it: "
            f"{unsafe} runs with its owner's rights and sets no search path"
        )
    for row in await connection.fetch(_REVOKE_EXECUTE, str(builder), list(_CROSSING)):
        await connection.execute(row["statement"])
    for row in await connection.fetch(_GRANTS, list(server.options.writable_extensions), str(builder)):
        await connection.execute(row["statement"])


def _in_order(extensions: Sequence[Extension], available: Mapping[str, Available]) -> Iterator[Extension]:
    """Yield extensions after those that they require, so that ``CASCADE`` installs only those that are not named."""
    left = {one.name: one for one in extensions}

    def visit(name: str) -> Iterator[Extension]:
        one = left.pop(name, None)
        for required in available[name].requires:
            if required in available:
                yield from visit(required)
        if one is not None:
            yield one

    for one in extensions:
        yield from visit(one.name)


def _invalid(message: str) -> InvalidRequest:
    return InvalidRequest(
        f"extensions: {message}", extra={"errors": [{"field": "extensions", "message": message}]}
    )


_AVAILABLE: Final = """
SELECT v.name::text AS name, array_agg(v.version::text ORDER BY v.version) AS versions, bool_and(v.trusted) AS trusted,
       coalesce(bool_or(v.schema IS NOT NULL) FILTER (WHERE v.version = wanted.version), false) AS has_own_schema,
       coalesce(max(v.requires::text) FILTER (WHERE v.version = wanted.version), '{}')::text[] AS requires
FROM pg_available_extension_versions v JOIN pg_available_extensions e ON e.name = v.name,
     LATERAL (SELECT coalesce((SELECT g.version FROM unnest($1::text[], $2::text[]) AS g (name, version)
                               WHERE g.name = e.name), e.default_version) AS version) wanted
GROUP BY v.name ORDER BY v.name
"""

_INSTALLED: Final = """
SELECT n.nspname AS schema, e.extversion AS version
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = $1
"""

_UNSAFE_EVENT_TRIGGERS: Final = """
SELECT format('the event trigger %I', t.evtname) FROM pg_event_trigger t JOIN pg_proc p ON p.oid = t.evtfoid
WHERE p.prosecdef AND NOT coalesce(p.proconfig::text ~ 'search_path=', false)
ORDER BY t.evtname LIMIT 1
"""

_REVOKE_EXECUTE: Final = """
SELECT format('REVOKE EXECUTE ON ROUTINE %s FROM PUBLIC', p.oid::regprocedure) AS statement
FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
  JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
WHERE pg_has_role(p.proowner, 'USAGE') AND p.proowner <> $1::text::regrole
  AND ((p.prosecdef AND NOT coalesce(p.proconfig::text ~ 'search_path=', false)
        -- PostGIS reads planner statistics by a function in C that writes nothing.
        AND (p.provolatile = 'v' OR l.lanname NOT IN ('c', 'internal')))
       OR p.pronamespace::regnamespace::text = ANY ($2::text[]))
  AND has_function_privilege('public', p.oid, 'EXECUTE')
"""

_GRANTS: Final = """
WITH extension AS (
    SELECT oid, extnamespace FROM pg_extension WHERE extname = ANY ($1::text[])
), member AS (
    SELECT d.classid, d.objid FROM pg_depend d JOIN extension e ON e.oid = d.refobjid
    WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
)
SELECT format('GRANT %s ON %s TO PUBLIC',
              CASE WHEN c.relkind IN ('r', 'p') THEN 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES'
                   WHEN c.relkind = 'S' THEN 'USAGE, SELECT, UPDATE' ELSE 'SELECT' END,
              CASE WHEN c.relkind = 'S' THEN 'SEQUENCE ' ELSE '' END || c.oid::regclass) AS statement
FROM pg_class c JOIN member m ON m.classid = 'pg_class'::regclass AND m.objid = c.oid
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S') AND pg_has_role(c.relowner, 'USAGE') AND c.relowner <> $2::text::regrole
UNION ALL
SELECT format('GRANT USAGE ON FOREIGN DATA WRAPPER %I TO PUBLIC', f.fdwname)
FROM pg_foreign_data_wrapper f JOIN member m ON m.classid = 'pg_foreign_data_wrapper'::regclass AND m.objid = f.oid
WHERE pg_has_role(f.fdwowner, 'USAGE')
UNION ALL
SELECT format('GRANT USAGE ON SCHEMA %I TO PUBLIC', n.nspname)
FROM pg_namespace n
WHERE n.oid IN (SELECT objid FROM member WHERE classid = 'pg_namespace'::regclass UNION SELECT extnamespace FROM extension)
  AND n.oid >= 16384 AND pg_has_role(n.nspowner, 'USAGE') AND n.nspowner <> $2::text::regrole
"""

_REVOKE_WRITING: Final = """
SELECT format('REVOKE %s ON %s FROM PUBLIC',
              CASE WHEN c.relkind = 'S' THEN 'USAGE, UPDATE'
                   ELSE 'INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER' END,
              CASE WHEN c.relkind = 'S' THEN 'SEQUENCE ' ELSE '' END || c.oid::regclass) AS statement
FROM pg_class c JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND pg_has_role(c.relowner, 'USAGE')
UNION ALL
SELECT format('REVOKE USAGE ON FOREIGN DATA WRAPPER %I FROM PUBLIC', f.fdwname)
FROM pg_foreign_data_wrapper f WHERE f.oid >= 16384 AND pg_has_role(f.fdwowner, 'USAGE')
UNION ALL
SELECT format('REVOKE CREATE ON SCHEMA %I FROM PUBLIC; GRANT USAGE ON SCHEMA %I TO PUBLIC', n.nspname, n.nspname)
FROM pg_namespace n JOIN pg_extension e ON e.extnamespace = n.oid WHERE n.oid >= 16384 AND pg_has_role(n.nspowner, 'USAGE')
"""
