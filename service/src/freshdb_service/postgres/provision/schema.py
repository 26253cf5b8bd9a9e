"""Isolation ``schema``: create one more schema in a pool's shared database, with its own login.

The service creates the schema and the login. **All SQL of the template's author runs in a session of that login**, never in
a session of the service. Checks, generated columns and index expressions call functions, and a function in a superuser's
session could call ``RESET ROLE``, whatever role was set before. While the rows of the seed are copied, the login is a member
of the one role that may read them.

A login owns its schema and nothing else. It can create no object in the shared database outside its schema, and has no
rights on the seed or on the schema of another lease.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Final
from uuid import UUID

import asyncpg

from freshdb_service.errors import BackendUnavailable, FreshdbError, TemplateNotFound
from freshdb_service.postgres.drop import drop_schema
from freshdb_service.postgres.names import Kind, Name, quoted
from freshdb_service.postgres.provision.blueprint import Blueprint
from freshdb_service.postgres.provision.planner_statistics import gather_statistics, unset_empty_tables
from freshdb_service.postgres.roles import create_login
from freshdb_service.postgres.server.capabilities import MEMBERSHIP_OPTIONS_VERSION
from freshdb_service.postgres.server.connections import (
    SETTINGS,
    Connection,
    Login,
    execute_script,
    operation,
    without_conflict,
)
from freshdb_service.postgres.server.server import Server

_log = logging.getLogger(__name__)
_COPY_SECONDS: Final = 600.0
"""Timeout for creating one schema with its rows."""


class CopyFailed(BackendUnavailable):
    """The template's SQL failed in a new schema. The service's own statements succeeded."""


@operation
async def provision_schema(server: Server, database_id: UUID, generation: int, blueprint: Blueprint) -> Login:
    """Create one generation of a schema, with its own login.

    Raises:
        Conflict: this generation exists: another worker creates it.
        TemplateNotFound: the shared database does not exist.
        BackendUnavailable: the server is unavailable, or refuses.
    """
    name = server.name_of(Kind.SCHEMA, database_id, generation)
    async with server.maintenance() as connection:
        password = await create_login(connection, server, name)
    login = Login(database=blueprint.shared_database, schema=str(name), user=str(name), password=password)
    try:
        await _make(server, login, name, blueprint)
    except BaseException as error:
        with suppress(FreshdbError, asyncpg.PostgresError):
            await drop_schema(server, database_id, blueprint.shared_database, below_generation=generation + 1)
        if isinstance(error, asyncpg.InvalidCatalogNameError):
            raise TemplateNotFound(
                f"on the server {server.name} the database {blueprint.shared_database} does not exist"
            ) from error
        raise
    return login


async def _make(server: Server, login: Login, name: Name, blueprint: Blueprint) -> None:
    before, load, after = blueprint.scripts(name)
    reader = _reader_of(server, blueprint)
    async with server.inside(blueprint.shared_database) as connection:
        await _create_schema(connection, server, name, blueprint, reader)
        settings = {**SETTINGS, "search_path": f"{quoted(name)}, public", "row_security": "on"}
        async with (
            server.logged_in(login, settings=settings, command_timeout_seconds=_COPY_SECONDS) as session,
            session.transaction(),
        ):
            try:
                for script in (before, load, after):
                    await execute_script(session, script)
            except (asyncpg.OperatorInterventionError, asyncpg.InsufficientResourcesError):
                raise  # a fault of the server, not of the template
            except asyncpg.PostgresError as error:
                raise CopyFailed(
                    f"creating a schema from this template fails: {error}", retry_after_seconds=5.0
                ) from error
        await connection.execute(f"REVOKE {quoted(reader)} FROM {quoted(name)}")
        try:
            await gather_statistics(connection, str(name), path=f"{quoted(name)}, public")
            if server.is_superuser:
                await unset_empty_tables(connection, str(name))
        except asyncpg.PostgresError as error:  # a function in an index fails, as it did for the template
            _log.warning("no statistics for the schema %s on the server %s: %s", name, server.name, error)


async def _create_schema(
    connection: Connection, server: Server, name: Name, blueprint: Blueprint, reader: Name
) -> None:
    """Create the schema, the right to connect, and for now the right to read the seed, in one transaction."""
    schema, database = quoted(name), quoted(blueprint.shared_database)
    only_inherited = " WITH INHERIT TRUE, SET FALSE" if server.version >= MEMBERSHIP_OPTIONS_VERSION else ""
    async with connection.transaction():
        await connection.execute(
            f"CREATE SCHEMA {schema} AUTHORIZATION {schema}; "
            f"COMMENT ON SCHEMA {schema} IS {server.quoted_stamp}; "
            f"ALTER ROLE {schema} IN DATABASE {database} SET search_path TO {schema}, public; "
            f"GRANT {quoted(reader)} TO {schema}{only_inherited}"
        )
        # Last, because every login of this pool changes the same row, and waits until the others have committed.
        await without_conflict(
            connection,
            lambda: connection.execute(f"GRANT CONNECT, TEMPORARY ON DATABASE {database} TO {schema}"),
        )


def _reader_of(server: Server, blueprint: Blueprint) -> Name:
    shared = Name.parse(server.options.prefix, blueprint.shared_database)
    if shared is None or shared.kind is not Kind.SHARED:
        raise TemplateNotFound(f"{blueprint.shared_database} is no shared database of this installation")
    return Name(shared.prefix, Kind.READER, shared.token)
