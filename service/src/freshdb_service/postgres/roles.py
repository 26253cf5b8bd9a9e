"""Roles: one login per build and per generation of a database, each with its own name, OID and password.

A login has the rights of an owner inside its database, and no rights outside it. Its password is random. The server gets a
SCRAM verifier of it, so no log of statements contains the password.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final, Literal

import asyncpg

from freshdb_service.errors import BackendUnavailable, Conflict
from freshdb_service.postgres.blockers import allow_connections, terminating_blockers
from freshdb_service.postgres.names import Name, literal, quoted
from freshdb_service.postgres.ownership import OwnedObject, databases
from freshdb_service.postgres.server.capabilities import MEMBERSHIP_OPTIONS_VERSION
from freshdb_service.postgres.server.connections import Connection, without_conflict
from freshdb_service.postgres.server.server import Server

_DROP_TRIES: Final = 5


async def create_login(connection: Connection, server: Server, name: Name) -> str:
    """Create a stamped login in one transaction.

    Returns:
        the password.

    Raises:
        Conflict: a role of this name exists.
    """
    password = await server.passwords.take()
    options = f"LOGIN CONNECTION LIMIT {server.connection_limit:d} PASSWORD {literal(password.verifier)}"
    limits = []
    if server.options.temp_file_bytes and server.may_limit_files:
        # Only a superuser can set or remove it, so the login cannot.
        kilobytes = max(server.options.temp_file_bytes // 1024, 1)
        limits.append(f"ALTER ROLE {quoted(name)} SET temp_file_limit = '{kilobytes:d}kB'")
    await _create(connection, server, name, options, *limits)
    return password.secret


async def create_group(connection: Connection, server: Server, name: Name) -> None:
    """Create a stamped role that cannot log in.

    Raises:
        Conflict: a role of this name exists.
    """
    await _create(connection, server, name, "NOLOGIN")


async def forbid_login(connection: Connection, server: Server, role: OwnedObject) -> None:
    """Disable a login. Its open sessions stay."""
    with terminating_blockers(server, connection):
        await set_nologin(connection, str(role.name))


async def set_nologin(connection: Connection, login: str) -> bool:
    """Disable a login by name, outside of transactions, in one round trip. Return ``False`` if it does not exist."""

    async def change() -> None:
        await connection.execute(f"ALTER ROLE {quoted(login)} NOLOGIN")

    async def insist() -> None:
        # The holder may change the role again and again. A terminated session does not, until it has connected again.
        await connection.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = {literal(login)}"
        )
        await change()

    try:
        try:
            await change()
        except asyncpg.InternalServerError:  # another session changes it at this moment
            await without_conflict(connection, insist)
    except asyncpg.UndefinedObjectError:
        return False
    return True


async def drop_role(connection: Connection, server: Server, role: OwnedObject) -> None:
    """Drop a role of this installation, with every privilege that it was given.

    Another holder may have named this role in a grant or a policy in its own database. PostgreSQL does not drop a role with
    such dependencies, so they are removed first.

    Raises:
        BackendUnavailable: objects still depend on it after several attempts.
    """
    dependent = ""
    for _ in range(_DROP_TRIES):
        try:
            with terminating_blockers(server, connection):
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
                continue  # the database was dropped, or is about to be
            except asyncpg.DependentObjectsStillExistError as error:
                dependent = f"in the database {database}, {error.detail or error}; drop it there"
    raise BackendUnavailable(
        f"on the server {server.name} the role {role.name} cannot be dropped yet (give objects to keep another owner): "
        f"{dependent}",
        retry_after_seconds=5.0,
    )


async def drop_owned_by(
    connection: Connection, server: Server, role: OwnedObject, behavior: Literal["CASCADE", "RESTRICT"]
) -> None:
    """Drop the objects, privileges and large objects of a role in the database of the connection.

    ``CASCADE`` also drops objects of other owners that depend on them. It is for databases of this installation.
    """

    async def change() -> None:
        await connection.execute(f"DROP OWNED BY {quoted(role.name)} {behavior}")

    # If the role does not exist, its objects do not exist either.
    with suppress(asyncpg.UndefinedObjectError), terminating_blockers(server, connection):
        await without_conflict(connection, change)


async def _create(connection: Connection, server: Server, name: Name, options: str, *more: str) -> None:
    # Every attribute is written, because defaults can change.
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
            f"on the server {server.name} the role {name} exists already: another worker uses it"
        ) from error


async def _databases_that_name(
    connection: Connection, server: Server, role: OwnedObject
) -> list[tuple[str, bool]]:
    """Return the databases in which a role has dependencies, and whether each belongs to this installation.

    A database of this installation is opened if its owner closed it.
    """
    rows = await connection.fetch(
        """
        SELECT DISTINCT d.datname, d.datdba = $1 AS owned FROM pg_shdepend s JOIN pg_database d
          ON d.oid = s.dbid OR (s.dbid = 0 AND s.classid = 'pg_database'::regclass AND d.oid = s.objid)
        WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = $1 AND d.datconnlimit <> -2
        """,
        role.oid,
    )
    naming = {str(row["datname"]): bool(row["owned"]) for row in rows}
    await allow_connections(connection, server, set(naming))
    ours = {str(one.name) for one in await databases(connection, server)} if naming else set()
    # If the role owns a database under a foreign name, the holder renamed it to keep it. Such a database is left alone.
    return [(one, one in ours) for one, owned in sorted(naming.items()) if one in ours or not owned]
