"""Roles: a login per build and per generation of a database, each with a name, an OID and a password of its own.

A login may do inside its database what an owner can, and outside it nothing. Its password is random, and reaches the
server as a SCRAM verifier, so that no log of statements ever holds it.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import asyncpg

from freshdb_service.cluster.connections import Connection, without_conflict
from freshdb_service.cluster.identifiers import Name, literal, quoted
from freshdb_service.cluster.ownership import OwnedObject, make_enterable
from freshdb_service.errors import BackendUnavailable, Conflict

if TYPE_CHECKING:
    from freshdb_service.cluster.server import Server

MEMBERSHIP_OPTIONS_VERSION: Final = 16_00_00
"""From here on a membership says whether it inherits and whether it may be set."""

_DROP_TRIES: Final = 5


@dataclass(frozen=True, slots=True)
class Login:
    """How a builder or a holder connects; the server's host and port go with it."""

    database: str
    schema: str | None
    user: str
    password: str = field(repr=False)


async def create_login(connection: Connection, server: Server, name: Name) -> str:
    """Create a stamped login in one transaction.

    Returns:
        its password.

    Raises:
        Conflict: there is a role of this name.
    """
    password = await server.passwords.take()
    limit = server.options.connection_limit
    await _create(
        connection, server, name, f"LOGIN CONNECTION LIMIT {limit:d} PASSWORD {literal(password.verifier)}"
    )
    return password.secret


async def create_group(connection: Connection, server: Server, name: Name) -> None:
    """Create a stamped role that nobody can log in as.

    Raises:
        Conflict: there is a role of this name.
    """
    await _create(connection, server, name, "NOLOGIN")


async def forbid_login(connection: Connection, role: OwnedObject) -> None:
    """From here on nobody gets in as this role; who is in, stays in."""

    async def change() -> None:
        await connection.execute(f"ALTER ROLE {quoted(role.name)} NOLOGIN")

    with suppress(asyncpg.UndefinedObjectError):  # it is gone: nobody gets in either
        await without_conflict(connection, change)


async def close(connection: Connection, login: str) -> bool:
    """``forbid_login`` by name, outside of transactions, in one round trip; ``False`` if there is no such login."""

    async def change() -> None:
        await connection.execute(f"ALTER ROLE {quoted(login)} NOLOGIN")

    try:
        try:
            await change()
        except asyncpg.InternalServerError:  # somebody else is about to change it, too
            await without_conflict(connection, change)
    except asyncpg.UndefinedObjectError:
        return False
    return True


async def drop_role(connection: Connection, server: Server, role: OwnedObject) -> None:
    """Drop a role of ours, with every privilege it was ever given.

    A holder may have named this role in a grant or a policy in a database of *its* own; such dependencies would keep the
    role alive, and are taken away where they are.

    Raises:
        BackendUnavailable: something still depends on it after several tries.
    """
    dependent = ""
    for _ in range(_DROP_TRIES):
        try:
            await without_conflict(
                connection, lambda: connection.execute(f"DROP ROLE IF EXISTS {quoted(role.name)}")
            )
        except asyncpg.DependentObjectsStillExistError as error:
            dependent = error.detail or str(error)
        else:
            return
        for database in await _databases_that_name(connection, server, role):
            try:
                async with server.inside(database) as inside:
                    await drop_owned_by(inside, role)
            except (asyncpg.InvalidCatalogNameError, asyncpg.ObjectNotInPrerequisiteStateError):
                continue  # gone with everything in it, or about to be
    raise BackendUnavailable(
        f"on the server {server.name} the role {role.name} cannot be dropped yet: {dependent}",
        retry_after_seconds=5.0,
    )


async def drop_owned_by(connection: Connection, role: OwnedObject) -> None:
    """Drop what a role has in the database that the connection is in: objects, privileges, large objects."""

    async def change() -> None:
        await connection.execute(f"DROP OWNED BY {quoted(role.name)} CASCADE")

    with suppress(asyncpg.UndefinedObjectError):  # the role is gone, and so is what it had
        await without_conflict(connection, change)


async def _create(connection: Connection, server: Server, name: Name, options: str) -> None:
    # Attributes are said in full: a default is a thing that changes.
    plain = "NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS INHERIT"
    script = [
        f"CREATE ROLE {quoted(name)} {plain} {options}",
        f"COMMENT ON ROLE {quoted(name)} IS {server.quoted_stamp}",
    ]
    if not server.is_superuser:
        inheriting = " WITH INHERIT TRUE, SET TRUE" if server.version >= MEMBERSHIP_OPTIONS_VERSION else ""
        script.append(f"GRANT {quoted(name)} TO CURRENT_USER{inheriting}")
    try:
        async with connection.transaction():
            await connection.execute("; ".join(script))
    except (asyncpg.DuplicateObjectError, asyncpg.UniqueViolationError) as error:
        raise Conflict(
            f"on the server {server.name} there is a role {name} already: somebody else is at it"
        ) from error


async def _databases_that_name(connection: Connection, server: Server, role: OwnedObject) -> list[str]:
    """Where a role is named, and can be looked for; ours are opened for that, if their owners closed them."""
    rows = await connection.fetch(
        """
        SELECT DISTINCT d.datname FROM pg_shdepend s JOIN pg_database d
          ON d.oid = s.dbid OR (s.dbid = 0 AND s.classid = 'pg_database'::regclass AND d.oid = s.objid)
        WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = $1 AND d.datconnlimit <> -2
        """,
        role.oid,
    )
    naming = {str(row["datname"]) for row in rows}
    await make_enterable(connection, server, naming)
    return sorted(naming)
