"""The control plane's database, where it is on a server that holders can log in to.

Holders have no rights on its tables. But a role that may connect to a database can read its catalogs, take advisory locks in
it, and listen. So only the owner may connect to this database.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg

from freshdb_service.postgres.names import quoted
from freshdb_service.postgres.server.capabilities import check_deny_list, examine, refuse_foreign_databases
from freshdb_service.postgres.server.connections import (
    SETTINGS,
    Address,
    Connection,
    translate_refusals,
    without_conflict,
)
from freshdb_service.postgres.server.options import ServerOptions
from freshdb_service.postgres.server.server import public_may_connect

_log = logging.getLogger(__name__)


async def ensure_control_database(
    dsn: str, name: str, *, options: ServerOptions | None = None, unless_shared: str | None = None
) -> str:
    """Create the control plane's database on a managed server if it is missing, and close it to other roles.

    Args:
        dsn: DSN of the server.
        name: name of the database.
        options: options for all managed servers.
        unless_shared: name of the server, if a server with databases of others is to be refused.

    Returns:
        the DSN of the database.

    Raises:
        ConfigurationError: the DSN is malformed, or the server refuses its user, password or database.
        ServerRefused: the server cannot, or must not, be managed.
        BackendUnavailable: the server cannot be reached.
    """
    options = options or ServerOptions()
    address = _address(dsn)
    facts = await examine(address, options)
    async with address.connected(
        settings=SETTINGS, command_timeout_seconds=options.command_timeout_seconds
    ) as connection:
        if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", name):
            if unless_shared is not None and facts.foreign:
                refuse_foreign_databases(unless_shared, facts.foreign)
            # Replicas may start at the same moment. A lock would not help, because holders could take it, too.
            with suppress(asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError):
                await connection.execute(f"CREATE DATABASE {quoted(name)} TEMPLATE template0")
        if await public_may_connect(connection, name):
            await _close(connection, name)
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{quote(name)}"))


async def close_control_database(dsn: str, *, options: ServerOptions) -> None:
    """Close the control plane's own database to other roles, or log a warning that it is open.

    Raises:
        ConfigurationError: the DSN is malformed, or the server refuses its user, password or database.
        ServerRefused: the server is on the deny list.
        BackendUnavailable: the server cannot be reached.
    """
    address = _address(dsn)
    with translate_refusals(address.name):
        session = await address.connect(
            settings=SETTINGS, command_timeout_seconds=options.command_timeout_seconds
        )
    try:
        await check_deny_list(session, address, options)
        row = await session.fetchrow(_OPEN)
        if row is None:
            return
        name = str(row["datname"])
        if row["ours"] and name not in {"postgres", "template1"}:
            await _close(session, name)
        else:
            _log.warning(
                "every role of %s may connect to the control plane's database %s, including holders of leases: "
                "as its owner, run REVOKE ALL ON DATABASE %s FROM PUBLIC",
                *(address.name, name, quoted(name)),
            )
    finally:
        await session.close(timeout=5)


async def _close(connection: Connection, name: str) -> None:
    await without_conflict(
        connection, lambda: connection.execute(f"REVOKE ALL ON DATABASE {quoted(name)} FROM PUBLIC")
    )


def _address(dsn: str) -> Address:
    parts = urlsplit(dsn)
    return Address.parse(f"{parts.hostname}:{parts.port or 5432}" if parts.hostname else "given", dsn)


_OPEN = """
SELECT datname, datdba = (SELECT oid FROM pg_roles WHERE rolname = current_user) AS ours FROM pg_database
WHERE datname = current_database() AND has_database_privilege('public', oid, 'CONNECT')
"""
