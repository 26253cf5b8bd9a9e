"""Roles: a login per build and per generation of a database, each with a name, an OID and a password of its own.

A login may do inside its database what an owner can, and outside it nothing. Its password is random, and reaches the
server as a SCRAM verifier, so that no log of statements ever holds it.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final, Literal

import asyncpg

from freshdb_service.errors import BackendUnavailable, Conflict
from freshdb_service.postgres.blockers import insisting, make_enterable
from freshdb_service.postgres.names import Name, literal, quoted
from freshdb_service.postgres.ownership import OwnedObject, databases
from freshdb_service.postgres.server.capabilities import MEMBERSHIP_OPTIONS_VERSION
from freshdb_service.postgres.server.connections import Connection, without_conflict
from freshdb_service.postgres.server.server import Server

_DROP_TRIES: Final = 5


async def create_login(connection: Connection, server: Server, name: Name) -> str:
    """Create a stamped login in one transaction.

    Returns:
        its password.

    Raises:
        Conflict: there is a role of this name.
    """
    password = await server.passwords.take()
    options = f"LOGIN CONNECTION LIMIT {server.connection_limit:d} PASSWORD {literal(password.verifier)}"
    limits = []
    if server.options.temp_file_bytes and server.may_limit_files:
        # A superuser's to set, also where it is stored: its login cannot take it away.
        kilobytes = max(server.options.temp_file_bytes // 1024, 1)
        limits.append(f"ALTER ROLE {quoted(name)} SET temp_file_limit = '{kilobytes:d}kB'")
    await _create(connection, server, name, options, *limits)
    return password.secret


async def create_group(connection: Connection, server: Server, name: Name) -> None:
    """Create a stamped role that nobody can log in as.

    Raises:
        Conflict: there is a role of this name.
    """
    await _create(connection, server, name, "NOLOGIN")


async def forbid_login(connection: Connection, server: Server, role: OwnedObject) -> None:
    """From here on nobody gets in as this role; who is in, mostly stays in."""
    with insisting(server, connection):
        await close(connection, str(role.name))


async def close(connection: Connection, login: str) -> bool:
    """``forbid_login`` by name, outside of transactions, in one round trip; ``False`` if there is no such login."""

    async def change() -> None:
        await connection.execute(f"ALTER ROLE {quoted(login)} NOLOGIN")

    async def insist() -> None:
        # Its holder may change it again and again; who is thrown out does not, for as long as it takes to come back.
        await connection.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = {literal(login)}"
        )
        await change()

    try:
        try:
            await change()
        except asyncpg.InternalServerError:  # somebody else is about to change it, too
            await without_conflict(connection, insist)
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
            with insisting(server, connection):
                await without_conflict(
                    connection, lambda: connection.execute(f"DROP ROLE IF EXISTS {quoted(role.name)}")
                )
        except asyncpg.DependentObjectsStillExistError as error:
            dependent = error.detail or str(error)
        else:
            return
        for database, ours in await _databases_that_name(connection, server, role):
            try:
                async with server.inside(database) as inside:
                    await drop_owned_by(inside, server, role, "CASCADE" if ours else "RESTRICT")
            except (asyncpg.InvalidCatalogNameError, asyncpg.ObjectNotInPrerequisiteStateError):
                continue  # gone with everything in it, or about to be
            except asyncpg.DependentObjectsStillExistError as error:
                dependent = f"in the database {database}, {error.detail or error}; drop it there"
    raise BackendUnavailable(
        f"on the server {server.name} the role {role.name} cannot be dropped yet (what is to be kept needs another owner): "
        f"{dependent}",
        retry_after_seconds=5.0,
    )


async def drop_owned_by(
    connection: Connection, server: Server, role: OwnedObject, behavior: Literal["CASCADE", "RESTRICT"]
) -> None:
    """Drop what a role has in the database that the connection is in: objects, privileges, large objects.

    ``CASCADE`` takes along what depends on that, whosever it is: for databases of ours.
    """

    async def change() -> None:
        await connection.execute(f"DROP OWNED BY {quoted(role.name)} {behavior}")

    # If the role is gone, so is what it had.
    with suppress(asyncpg.UndefinedObjectError), insisting(server, connection):
        await without_conflict(connection, change)


async def _create(connection: Connection, server: Server, name: Name, options: str, *more: str) -> None:
    # Attributes are said in full: a default is a thing that changes.
    plain = "NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS INHERIT"
    script = [
        f"CREATE ROLE {quoted(name)} {plain} {options}",
        f"COMMENT ON ROLE {quoted(name)} IS {server.quoted_stamp}",
        *more,
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


async def _databases_that_name(
    connection: Connection, server: Server, role: OwnedObject
) -> list[tuple[str, bool]]:
    """Where a role is named, and can be looked for, and whether that is ours: then it is opened, if its owner closed it."""
    rows = await connection.fetch(
        """
        SELECT DISTINCT d.datname, d.datdba = $1 AS owned FROM pg_shdepend s JOIN pg_database d
          ON d.oid = s.dbid OR (s.dbid = 0 AND s.classid = 'pg_database'::regclass AND d.oid = s.objid)
        WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = $1 AND d.datconnlimit <> -2
        """,
        role.oid,
    )
    naming = {str(row["datname"]): bool(row["owned"]) for row in rows}
    await make_enterable(connection, server, set(naming))
    ours = {str(one.name) for one in await databases(connection, server)} if naming else set()
    # One that it owns, under a name that is not ours, was put aside by somebody who renamed it: that is left as it is.
    return [(one, one in ours) for one, owned in sorted(naming.items()) if one in ours or not owned]
