"""Drop databases, schemas and roles of this installation, whatever their holders have done to them.

Dropping an object that does not exist succeeds. Each object is looked up by name and stamp in the moment before it is
dropped. It is fenced first (``fencing.fence``) and then dropped. A drop that was interrupted can be repeated.

A database outlives its logins, because a reset in place renames the login to the next generation
(``reset.login_handover``). So a database belongs to the generation of its *login*. A worker that drops an older one first
takes the login, by renaming it to generation 0. If two workers both work on a database, only one finds the login.
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
from freshdb_service.postgres.blockers import roll_back_prepared, terminating_blockers
from freshdb_service.postgres.fencing.fence import GONE_SECONDS, fence, fence_shared, terminate
from freshdb_service.postgres.names import Kind, quoted
from freshdb_service.postgres.ownership import OwnedDatabase, OwnedObject
from freshdb_service.postgres.roles import drop_owned_by, drop_role
from freshdb_service.postgres.server.connections import Connection, operation, without_conflict
from freshdb_service.postgres.server.server import Server

_RETRY_SECONDS: Final = 0.02
_TAKEN: Final = 0
"""Generation of logins that are being dropped. No database that is leased has it."""


@operation
async def drop_template(server: Server, template_id: UUID, *, below_attempt: int | None = None) -> None:
    """Drop a template's databases and build roles: of all attempts, or of those below ``below_attempt``.

    Raises:
        BackendUnavailable: the server is unavailable, or an object is still in use.
    """
    await _drop_counted(server, Kind.TEMPLATE, template_id, below_attempt)


@operation
async def drop_database(server: Server, database_id: UUID, *, below_generation: int | None = None) -> None:
    """Fence and drop a database with its logins: of all generations, or of those below ``below_generation``.

    Raises:
        BackendUnavailable: the server is unavailable, or an object is still in use.
    """
    await _drop_counted(server, Kind.DATABASE, database_id, below_generation)


@operation
async def drop_schema(
    server: Server, database_id: UUID, shared_database: str, *, below_generation: int | None = None
) -> None:
    """Fence and drop a schema with its login: of all generations, or of those below ``below_generation``.

    Raises:
        BackendUnavailable: the server is unavailable, or an object is still in use.
    """
    async with server.maintenance() as connection:
        roles = await ownership.roles(connection, server, kind=Kind.SCHEMA, identifier=database_id)
        for role in _below(roles, below_generation):
            if (taken := await _take_login(connection, server, role)) is not None:
                await _drop_schema_roles(connection, server, [taken], [shared_database])


@operation
async def drop_shared(server: Server, pool_id: UUID) -> None:
    """Drop a pool's shared database with every schema in it, their logins, and its own roles.

    Raises:
        BackendUnavailable: the server is unavailable, or the object is still in use.
    """
    async with server.maintenance() as connection:
        for database in await ownership.databases(connection, server, kind=Kind.SHARED, identifier=pool_id):
            await _drop_shared(connection, server, database)
        for kind in (Kind.SCHEMA, Kind.SHARED, Kind.READER):  # the first: a trial of the preparation
            for role in await ownership.roles(connection, server, kind=kind, identifier=pool_id):
                await drop_role(connection, server, role)


@operation
async def drop_owned(server: Server, owned: OwnedObject) -> bool:
    """Drop one object of the inventory, if it still exists and still belongs to this installation.

    Returns:
        true if there was an object to drop.

    Raises:
        BackendUnavailable: the server is unavailable, or the object is still in use.
    """
    async with server.maintenance() as connection:
        roles = [role for role in await ownership.roles(connection, server) if role.name == owned.name]
        databases = [one for one in await ownership.databases(connection, server) if one.name == owned.name]
        if owned.kind == "database":
            if not databases or databases[0].oid != owned.oid:
                return False  # it was dropped, or is another object by now
            await fence(connection, server, roles)
            await _drop_shared(connection, server, databases[0])
        elif owned.kind == "role" and (databases or not roles or roles[0].oid != owned.oid):
            return False  # its database must be dropped first, or it was dropped, or is another object by now
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
            if (taken := await _take_login(connection, server, role)) is None:
                continue
            await fence(connection, server, [taken])
            for database in await ownership.databases(connection, server, kind=kind, identifier=identifier):
                if database.owner_oid == taken.oid:
                    await _drop(connection, server, database)
            await drop_role(connection, server, taken)
        left = {
            role.oid for role in await ownership.roles(connection, server, kind=kind, identifier=identifier)
        }
        for database in await ownership.databases(connection, server, kind=kind, identifier=identifier):
            if database.owner_oid not in left and (below is None or (database.name.counter or 0) < below):
                await _drop(connection, server, database)


async def _take_login(connection: Connection, server: Server, role: OwnedObject) -> OwnedObject | None:
    """Take a login, so that no other worker can clean or drop its database. Return ``None`` if another worker has it.

    Raises:
        BackendUnavailable: another worker is dropping a login of the same database.
    """
    if role.name.counter in {None, _TAKEN}:
        return role
    name = replace(role.name, counter=_TAKEN)

    async def rename() -> None:
        await connection.execute(f"ALTER ROLE {quoted(role.name)} RENAME TO {quoted(name)}")

    try:
        with terminating_blockers(server, connection):
            await without_conflict(connection, rename)
    except asyncpg.UndefinedObjectError:
        return None
    except asyncpg.DuplicateObjectError as error:
        raise BackendUnavailable(
            f"another worker is dropping {role.name}: retry later", retry_after_seconds=1.0
        ) from error
    return replace(role, name=name)


async def _drop_shared(connection: Connection, server: Server, database: OwnedDatabase) -> None:
    """Drop a database, and the logins of the schemas in it."""
    logins = await _logins_into(connection, server, database)
    await fence(connection, server, logins)
    await _drop(connection, server, database)
    for role in logins:
        await drop_role(connection, server, role)


async def _drop(connection: Connection, server: Server, database: OwnedDatabase) -> None:
    """Drop one database. Terminate its sessions and roll back its prepared transactions first."""
    name = quoted(database.name)
    until = monotonic() + GONE_SECONDS
    while True:
        try:
            if not database.invalid:
                if database.is_template:  # its owner may have set this, and a template cannot be dropped
                    await connection.execute(f"ALTER DATABASE {name} IS_TEMPLATE false")
                await terminate(connection, server, role_oids=[], database_oid=database.oid)
                await roll_back_prepared(connection, server, owners=[], database=str(database.name))
            # FORCE needs the right to end every process in it, including autovacuum's workers: only a superuser has it.
            force = " WITH (FORCE)" if server.is_superuser else ""
            with terminating_blockers(server, connection):
                await connection.execute(f"DROP DATABASE IF EXISTS {name}{force}")
        except asyncpg.InvalidCatalogNameError:
            return  # another worker dropped it
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
    """Fence these logins, drop the schemas and other objects that they own, then drop the logins."""
    await fence_shared(connection, server, roles)
    for database in databases if roles else []:
        try:
            async with server.inside(database) as inside:
                held = {schema.name for schema in await ownership.schemas(inside, server, database)}
                for role in roles:
                    if role.name in held:
                        with terminating_blockers(server, inside):
                            await inside.execute(f"DROP SCHEMA IF EXISTS {quoted(role.name)} CASCADE")
                    await drop_owned_by(inside, server, role, "CASCADE")
        except asyncpg.InvalidCatalogNameError:
            continue  # the shared database was dropped, and its schemas with it
    for role in roles:
        await drop_role(connection, server, role)
    if roles:
        # A backend that the fence could not see has lost its role, and is visible by now.
        await terminate(connection, server, role_oids=[role.oid for role in roles])


async def _logins_into(connection: Connection, server: Server, database: OwnedDatabase) -> list[OwnedObject]:
    """Return the logins of the schemas in a shared database: they own objects in it, or may connect to it."""
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
    """Return the roles of older generations, oldest first. A login that was taken must be dropped before the next."""
    older = [role for role in roles if counter is None or (role.name.counter or 0) < counter]
    return sorted(older, key=lambda role: role.name.counter or 0)
