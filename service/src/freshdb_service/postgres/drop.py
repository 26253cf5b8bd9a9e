"""Taking away: databases, schemas and roles of ours, whatever their holders have done to them. Never fails if it is absent.

Everything is looked up again right here, by name and stamp, in the moment before it is dropped. Fence first
(``fence``), then drop; a drop that was interrupted is simply done again.

A database outlives its logins: a reset that cleans it in place gives its login the next generation's name (``clean``). So it
belongs to the generation of its *login*, and whoever wants to drop an older one takes the login first, by renaming it to
generation 0. Of two workers that believe to have a database, only one finds the login that it looks for.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from time import monotonic
from typing import Final
from uuid import UUID

import asyncpg

from freshdb_service.errors import BackendUnavailable
from freshdb_service.postgres import ownership
from freshdb_service.postgres.blockers import insisting, roll_back_prepared
from freshdb_service.postgres.fencing.fence import GONE_SECONDS, fence, fence_shared, terminate
from freshdb_service.postgres.names import Kind, quoted
from freshdb_service.postgres.ownership import OwnedDatabase, OwnedObject
from freshdb_service.postgres.roles import drop_owned_by, drop_role
from freshdb_service.postgres.server.connections import Connection, operation, without_conflict
from freshdb_service.postgres.server.server import Server

_RETRY_SECONDS: Final = 0.02
_SEIZED: Final = 0
"""The generation of logins that are being dropped; no database that is handed out has it."""


@operation
async def drop_template(server: Server, template_id: UUID, *, below_attempt: int | None = None) -> None:
    """Drop a template's databases and build roles: of all attempts, or of those below ``below_attempt``.

    Raises:
        BackendUnavailable: the server is away, or something still holds on to one.
    """
    await _drop_counted(server, Kind.TEMPLATE, template_id, below_attempt)


@operation
async def drop_database(server: Server, database_id: UUID, *, below_generation: int | None = None) -> None:
    """Fence and drop a database with its logins: of all generations, or of those below ``below_generation``.

    Raises:
        BackendUnavailable: the server is away, or something still holds on to one.
    """
    await _drop_counted(server, Kind.DATABASE, database_id, below_generation)


@operation
async def drop_schema(
    server: Server, database_id: UUID, shared_database: str, *, below_generation: int | None = None
) -> None:
    """Fence and drop a schema with its login: of all generations, or of those below ``below_generation``.

    Raises:
        BackendUnavailable: the server is away, or something still holds on to one.
    """
    async with server.maintenance() as connection:
        roles = await ownership.roles(connection, server, kind=Kind.SCHEMA, identifier=database_id)
        for role in _below(roles, below_generation):
            if (seized := await _seize(connection, server, role)) is not None:
                await _drop_schema_roles(connection, server, [seized], [shared_database])


@operation
async def drop_shared(server: Server, pool_id: UUID) -> None:
    """Drop a pool's shared database with every schema in it, their logins, and its own roles.

    Raises:
        BackendUnavailable: the server is away, or something still holds on to it.
    """
    async with server.maintenance() as connection:
        for database in await ownership.databases(connection, server, kind=Kind.SHARED, identifier=pool_id):
            await _drop_shared(connection, server, database)
        for kind in (Kind.SCHEMA, Kind.SHARED, Kind.READER):  # the first: a trial of the preparation
            for role in await ownership.roles(connection, server, kind=kind, identifier=pool_id):
                await drop_role(connection, server, role)


@operation
async def drop_owned(server: Server, owned: OwnedObject) -> bool:
    """Drop one thing of the inventory, if it is still there and still ours.

    Returns:
        whether there was anything to do.

    Raises:
        BackendUnavailable: the server is away, or something still holds on to it.
    """
    async with server.maintenance() as connection:
        roles = [role for role in await ownership.roles(connection, server) if role.name == owned.name]
        databases = [one for one in await ownership.databases(connection, server) if one.name == owned.name]
        if owned.kind == "database":
            if not databases or databases[0].oid != owned.oid:
                return False  # gone, or another one by now
            await fence(connection, server, roles)
            await _drop_shared(connection, server, databases[0])
        elif owned.kind == "role" and (databases or not roles or roles[0].oid != owned.oid):
            return False  # its database goes first; or it is gone, or another one by now
        elif owned.name.kind is Kind.SCHEMA:
            await _drop_schema_roles(connection, server, roles, [owned.database] if owned.database else [])
            return True
        else:
            await fence(connection, server, roles)
        for role in roles:
            await drop_role(connection, server, role)
        return True


async def _drop_counted(server: Server, kind: Kind, identifier: UUID, below: int | None) -> None:
    async with server.maintenance() as connection:
        roles = await ownership.roles(connection, server, kind=kind, identifier=identifier)
        for role in _below(roles, below):
            if (seized := await _seize(connection, server, role)) is None:
                continue
            await fence(connection, server, [seized])
            for database in await ownership.databases(connection, server, kind=kind, identifier=identifier):
                if database.owner_oid == seized.oid:
                    await _drop(connection, server, database)
            await drop_role(connection, server, seized)
        left = {
            role.oid for role in await ownership.roles(connection, server, kind=kind, identifier=identifier)
        }
        for database in await ownership.databases(connection, server, kind=kind, identifier=identifier):
            if database.owner_oid not in left and (below is None or (database.name.counter or 0) < below):
                await _drop(connection, server, database)


async def _seize(connection: Connection, server: Server, role: OwnedObject) -> OwnedObject | None:
    """Take a login, so that nobody else can clean or drop what belongs to it; ``None`` if it is somebody else's by now.

    Raises:
        BackendUnavailable: somebody else is dropping one of the same database.
    """
    if role.name.counter in {None, _SEIZED}:
        return role
    name = replace(role.name, counter=_SEIZED)

    async def rename() -> None:
        await connection.execute(f"ALTER ROLE {quoted(role.name)} RENAME TO {quoted(name)}")

    try:
        with insisting(server, connection):
            await without_conflict(connection, rename)
    except asyncpg.UndefinedObjectError:
        return None
    except asyncpg.DuplicateObjectError as error:
        raise BackendUnavailable(f"somebody else is dropping {role.name}", retry_after_seconds=1.0) from error
    return replace(role, name=name)


async def _drop_shared(connection: Connection, server: Server, database: OwnedDatabase) -> None:
    """Drop a database, and with it the logins of the schemas in it, if there are any."""
    logins = await _logins_into(connection, server, database)
    await fence(connection, server, logins)
    await _drop(connection, server, database)
    for role in logins:
        await drop_role(connection, server, role)


async def _drop(connection: Connection, server: Server, database: OwnedDatabase) -> None:
    """Drop one database with whoever is in it and whatever was prepared in it."""
    name = quoted(database.name)
    until = monotonic() + GONE_SECONDS
    while True:
        try:
            if not database.invalid:
                if database.is_template:  # which its owner may have made it, and which cannot be dropped
                    await connection.execute(f"ALTER DATABASE {name} IS_TEMPLATE false")
                await terminate(connection, server, role_oids=[], database_oid=database.oid)
                await roll_back_prepared(connection, server, owners=[], database=str(database.name))
            # FORCE wants the right to end every process in there, autovacuum's workers included: a superuser's.
            force = " WITH (FORCE)" if server.is_superuser else ""
            with insisting(server, connection):
                await connection.execute(f"DROP DATABASE IF EXISTS {name}{force}")
        except asyncpg.InvalidCatalogNameError:
            return  # somebody else dropped it
        except asyncpg.ObjectInUseError as error:
            if monotonic() >= until:
                raise BackendUnavailable(
                    f"on the server {server.name} the database {database.name} is still in use: {error.detail or error}",
                    retry_after_seconds=5.0,
                ) from error
            await asyncio.sleep(_RETRY_SECONDS)
        else:
            return


async def _drop_schema_roles(
    connection: Connection, server: Server, roles: list[OwnedObject], databases: list[str]
) -> None:
    """Fence these logins, drop the schemas that they own (and all else of theirs), then the logins themselves."""
    await fence_shared(connection, server, roles)
    for database in databases if roles else []:
        try:
            async with server.inside(database) as inside:
                held = {schema.name for schema in await ownership.schemas(inside, server, database)}
                for role in roles:
                    if role.name in held:
                        with insisting(server, inside):
                            await inside.execute(f"DROP SCHEMA IF EXISTS {quoted(role.name)} CASCADE")
                    await drop_owned_by(inside, server, role, "CASCADE")
        except asyncpg.InvalidCatalogNameError:
            continue  # the shared database is gone, and the schemas with it
    for role in roles:
        await drop_role(connection, server, role)
    if roles:
        # A backend that the fence could not see has lost its role by now; it can be seen by now, too.
        await terminate(connection, server, role_oids=[role.oid for role in roles])


async def _logins_into(connection: Connection, server: Server, database: OwnedDatabase) -> list[OwnedObject]:
    """The logins of the schemas in a shared database: those that have something in it, or the right to enter it."""
    rows = await connection.fetch(
        """
        SELECT DISTINCT refobjid FROM pg_shdepend
        WHERE refclassid = 'pg_authid'::regclass
          AND (dbid = $1 OR (dbid = 0 AND classid = 'pg_database'::regclass AND objid = $1))
        """,
        database.oid,
    )
    there = {int(row["refobjid"]) for row in rows}
    return [role for role in await ownership.roles(connection, server, kind=Kind.SCHEMA) if role.oid in there]


def _below(roles: list[OwnedObject], counter: int | None) -> list[OwnedObject]:
    """Those of older generations, the oldest first: one that was seized before has to go before the next can be."""
    older = [role for role in roles if counter is None or (role.name.counter or 0) < counter]
    return sorted(older, key=lambda role: role.name.counter or 0)
