"""Which roles, databases and schemas on a server are ours: those that bear the prefix *and* the stamp.

The stamp is a comment that names the installation. A role gets it in the transaction that creates it, and a role cannot
change its own comment. A database cannot be created and stamped in one step, and its owner can change its comment; so a
database (and a schema) with our prefix whose *owner* bears our stamp counts as stamped, too, and there is no moment at
which something of ours cannot be told from something of others. What only looks like ours, or bears the stamp of another
installation, is never in here, and nothing else is ever altered or dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeGuard
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
    """One thing of ours in a server's catalogs.

    Attributes:
        kind: what it is to PostgreSQL.
        name: what it is to us, and whose.
        oid: which one it was when it was listed.
        database: where a schema is.
    """

    kind: Literal["role", "database", "schema"]
    name: Name
    oid: int
    database: str | None = None

    def belongs_to(self, identifier: UUID) -> bool:
        """Whether it was made for this template, database or pool."""
        return self.name.token == token_of(identifier)


@dataclass(frozen=True, slots=True)
class OwnedDatabase:
    """A database of ours, and what its owner may have done to it."""

    name: Name
    oid: int
    owner_oid: int
    open: bool
    is_template: bool
    invalid: bool
    """A drop was interrupted; all that can be done with it is to drop it."""


async def roles(
    connection: Connection, server: Server, *, kind: Kind | None = None, identifier: UUID | None = None
) -> list[OwnedObject]:
    """Our roles, all or those of one kind or id."""
    rows = await connection.fetch(ROLES, _beginning(server, kind, identifier), server.stamp)
    found = [(Name.parse(server.options.prefix, row["name"]), int(row["oid"])) for row in rows]
    return [OwnedObject("role", name, oid) for name, oid in found if _wanted(name, kind, identifier)]


async def databases(
    connection: Connection, server: Server, *, kind: Kind | None = None, identifier: UUID | None = None
) -> list[OwnedDatabase]:
    """Our databases, all or those of one kind or id."""
    rows = await connection.fetch(DATABASES, _beginning(server, kind, identifier), server.stamp)
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
        if _wanted(name := Name.parse(server.options.prefix, row["name"]), kind, identifier)
    ]


async def schemas(connection: Connection, server: Server, database: str) -> list[OwnedObject]:
    """Our schemas in the shared database that the connection is in; not the seed, which goes with its database."""
    rows = await connection.fetch(SCHEMAS, _beginning(server, Kind.SCHEMA, None), server.stamp)
    found = [(Name.parse(server.options.prefix, row["name"]), int(row["oid"])) for row in rows]
    return [
        OwnedObject("schema", name, oid, database) for name, oid in found if _wanted(name, Kind.SCHEMA, None)
    ]


@operation
async def inventory(server: Server) -> list[OwnedObject]:
    """Everything of ours on a server, schemas in shared databases included.

    The trial that ends the preparation of a shared database (a schema with the pool's own token) is a part of that
    database, not a thing of its own, as long as the database is there.
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
    """Databases that are neither ours nor PostgreSQL's own nor the maintenance database."""
    async with server.maintenance() as connection:
        ours = [str(one.name) for one in await databases(connection, server)]
        rows = await connection.fetch(
            "SELECT datname FROM pg_database WHERE datname <> ALL ($1::text[]) ORDER BY datname",
            ["template0", "template1", "postgres", server.maintenance_database, *ours],
        )
    return [str(row["datname"]) for row in rows]


@operation
async def database_sizes(server: Server) -> dict[Name, int]:
    """How much each of our databases takes on a server's disk."""
    async with server.maintenance() as connection:
        return {
            one.name: await database_bytes(connection, one.oid)
            for one in await databases(connection, server)
            if not one.invalid
        }


async def database_bytes(connection: Connection, oid: int) -> int:
    """How much one database takes on disk; nothing, if it is gone."""
    try:
        size: int | None = await connection.fetchval("SELECT pg_database_size($1::oid)", oid)
    except (asyncpg.UndefinedObjectError, asyncpg.InvalidCatalogNameError, asyncpg.UndefinedFileError):
        return 0
    return size or 0


def _beginning(server: Server, kind: Kind | None, identifier: UUID | None) -> str:
    """What the names that are looked for begin with: the server need not look at the stamps of others."""
    beginning = f"{server.options.prefix}_" + (f"{kind}_" if kind else "")
    return beginning + token_of(identifier) if kind and identifier else beginning


def _wanted(name: Name | None, kind: Kind | None, identifier: UUID | None) -> TypeGuard[Name]:
    return (
        name is not None
        and (kind is None or name.kind is kind)
        and (identifier is None or name.token == token_of(identifier))
    )
