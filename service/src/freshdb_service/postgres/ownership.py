"""Find the roles, databases and schemas on a server that belong to this installation: they have its prefix *and* its stamp.

The stamp is a comment that names the installation. A role gets it in the transaction that creates it, and a role cannot
change its own comment. A database cannot be created and stamped in one step, and its owner can change its comment. So a
database or schema with the prefix also counts as stamped if its *owner* has the stamp. Therefore freshdb's objects can be
told from others at every moment. An object with the prefix alone, or with the stamp of another installation, is never listed
here. The service alters and drops only listed objects.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeGuard
from uuid import UUID

import asyncpg

from freshdb_service.postgres.names import Kind, Name, token_of
from freshdb_service.postgres.server.connections import Connection, operation
from freshdb_service.postgres.server.server import Server

ROLES = """
SELECT oid, rolname AS name FROM pg_roles
WHERE starts_with(rolname, $1) AND shobj_description(oid, 'pg_authid') = $2
"""

DATABASES = """
SELECT oid, datname AS name, datallowconn, datistemplate, datconnlimit = -2 AS invalid, datdba FROM pg_database
WHERE starts_with(datname, $1)
  AND $2 IN (shobj_description(oid, 'pg_database'), shobj_description(datdba, 'pg_authid'))
"""

SCHEMAS = """
SELECT oid, nspname AS name FROM pg_namespace
WHERE starts_with(nspname, $1)
  AND $2 IN (obj_description(oid, 'pg_namespace'), shobj_description(nspowner, 'pg_authid'))
"""


@dataclass(frozen=True, slots=True)
class OwnedObject:
    """One object of this installation on a server.

    Attributes:
        kind: kind of object in PostgreSQL.
        name: parsed name.
        oid: OID when the object was listed.
        database: database that a schema is in.
    """

    kind: Literal["role", "database", "schema"]
    name: Name
    oid: int
    database: str | None = None

    def belongs_to(self, identifier: UUID) -> bool:
        """Return whether the object was created for this template, database or pool."""
        return self.name.token == token_of(identifier)


@dataclass(frozen=True, slots=True)
class OwnedDatabase:
    """A database of this installation, with the properties that its owner can change.

    Attributes:
        name: parsed name.
        oid: OID of the database.
        owner_oid: OID of its owner.
        open: true if it allows connections.
        is_template: true if it is marked as a template.
        invalid: true if a drop was interrupted. Such a database can only be dropped.
    """

    name: Name
    oid: int
    owner_oid: int
    open: bool
    is_template: bool
    invalid: bool


@dataclass(frozen=True, slots=True)
class OutdatedDatabase:
    """The version of the collations that a database was created with, and the version that the server has now."""

    version: str
    actual_version: str | None


async def roles(
    connection: Connection, server: Server, *, kind: Kind | None = None, identifier: UUID | None = None
) -> list[OwnedObject]:
    """Return the roles of this installation: all, or those of one kind or id."""
    rows = await connection.fetch(ROLES, _name_prefix(server, kind, identifier), server.stamp)
    found = [(Name.parse(server.options.prefix, row["name"]), int(row["oid"])) for row in rows]
    return [OwnedObject("role", name, oid) for name, oid in found if _matches_name(name, kind, identifier)]


async def databases(
    connection: Connection, server: Server, *, kind: Kind | None = None, identifier: UUID | None = None
) -> list[OwnedDatabase]:
    """Return the databases of this installation: all, or those of one kind or id."""
    rows = await connection.fetch(DATABASES, _name_prefix(server, kind, identifier), server.stamp)
    return [
        OwnedDatabase(
            name=name,
            oid=int(row["oid"]),
            owner_oid=int(row["datdba"]),
            open=bool(row["datallowconn"]),
            is_template=bool(row["datistemplate"]),
            invalid=bool(row["invalid"]),
        )
        for row in rows
        if _matches_name(name := Name.parse(server.options.prefix, row["name"]), kind, identifier)
    ]


async def schemas(connection: Connection, server: Server, database: str) -> list[OwnedObject]:
    """Return the leased schemas in the shared database of the connection. The seed is part of its database."""
    rows = await connection.fetch(SCHEMAS, _name_prefix(server, Kind.SCHEMA, None), server.stamp)
    found = [(Name.parse(server.options.prefix, row["name"]), int(row["oid"])) for row in rows]
    return [
        OwnedObject("schema", name, oid, database)
        for name, oid in found
        if _matches_name(name, Kind.SCHEMA, None)
    ]


@operation
async def inventory(server: Server) -> list[OwnedObject]:
    """Return all objects of this installation on a server, including schemas in shared databases.

    The preparation of a shared database ends with a trial schema, which has the pool's token. As long as the database
    exists, the trial schema is part of it and is not listed.
    """
    async with server.maintenance() as connection:
        held = await databases(connection, server)
        objects = [OwnedObject("database", one.name, one.oid) for one in held]
        objects += await roles(connection, server)
    for one in held:
        if one.name.kind is Kind.SHARED and one.open and not one.invalid:
            try:
                async with server.inside(str(one.name)) as connection:
                    objects += await schemas(connection, server, str(one.name))
            except (asyncpg.InvalidCatalogNameError, asyncpg.ObjectNotInPrerequisiteStateError):
                continue  # dropped, or closed, in the meantime
    prepared = {one.name.token for one in held if one.name.kind is Kind.SHARED}
    return [one for one in objects if one.name.kind is not Kind.SCHEMA or one.name.token not in prepared]


@operation
async def foreign_databases(server: Server) -> list[str]:
    """Return the databases of others. PostgreSQL's own and the maintenance database do not count."""
    async with server.maintenance() as connection:
        ours = [str(one.name) for one in await databases(connection, server)]
        rows = await connection.fetch(
            "SELECT datname FROM pg_database WHERE datname <> ALL ($1::text[]) ORDER BY datname",
            ["template0", "template1", "postgres", server.maintenance_database, *ours],
        )
    return [str(row["datname"]) for row in rows]


@operation
async def outdated_databases(server: Server) -> dict[str, OutdatedDatabase]:
    """Return the templates' databases, by name, whose collations have another version now. They cannot be cloned."""
    async with server.maintenance() as connection:
        rows = await connection.fetch(_OUTDATED, f"{server.options.prefix}_{Kind.TEMPLATE}_")
    return {str(row["name"]): OutdatedDatabase(row["version"], row["actual_version"]) for row in rows}


@operation
async def database_sizes(server: Server) -> dict[Name, int]:
    """Return the size on disk, in bytes, of each database of this installation."""
    async with server.maintenance() as connection:
        return {
            one.name: await database_bytes(connection, one.oid)
            for one in await databases(connection, server)
            if not one.invalid
        }


async def database_bytes(connection: Connection, oid: int) -> int:
    """Return the size of one database on disk, in bytes. It is 0 if the database does not exist."""
    try:
        size: int | None = await connection.fetchval("SELECT pg_database_size($1::oid)", oid)
    except (asyncpg.UndefinedObjectError, asyncpg.InvalidCatalogNameError, asyncpg.UndefinedFileError):
        return 0
    return size or 0


_OUTDATED: Final = """
SELECT datname AS name, datcollversion AS version, pg_database_collation_actual_version(oid) AS actual_version
FROM pg_database
WHERE starts_with(datname, $1) AND datcollversion IS NOT NULL
  AND datcollversion IS DISTINCT FROM pg_database_collation_actual_version(oid)
"""


def _name_prefix(server: Server, kind: Kind | None, identifier: UUID | None) -> str:
    """Return the beginning of the names to find, so that the server need not read the stamps of other objects."""
    beginning = f"{server.options.prefix}_" + (f"{kind}_" if kind else "")
    return beginning + token_of(identifier) if kind and identifier else beginning


def _matches_name(name: Name | None, kind: Kind | None, identifier: UUID | None) -> TypeGuard[Name]:
    return (
        name is not None
        and (kind is None or name.kind is kind)
        and (identifier is None or name.token == token_of(identifier))
    )
