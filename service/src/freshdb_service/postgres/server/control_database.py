"""The control plane's own database, where it is on a server that holders log in to.

They have no right on its tables; but who is let into a database can look at its catalogs, take advisory locks there, and
listen. So it is closed to everybody but its owner.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg

from freshdb_service.postgres.names import quoted
from freshdb_service.postgres.server.capabilities import examined, refuse_for_others, see_that_it_is_allowed
from freshdb_service.postgres.server.connections import (
    SETTINGS,
    Address,
    Connection,
    configured,
    without_conflict,
)
from freshdb_service.postgres.server.options import ServerOptions
from freshdb_service.postgres.server.server import open_to_all

_log = logging.getLogger(__name__)


async def ensure_control_database(
    dsn: str, name: str, *, options: ServerOptions | None = None, unless_shared: str | None = None
) -> str:
    """Make sure that the control plane's own database exists beside the managed ones, closed to everybody else.

    Args:
        dsn: of the server.
        name: of the database.
        options: how the server is treated.
        unless_shared: the server's name, if nothing may be made there as long as it holds databases of others.

    Returns:
        the DSN for it.

    Raises:
        ConfigurationError, ServerRefused, BackendUnavailable: as ``Server.open`` does.
    """
    options = options or ServerOptions()
    address = _address(dsn)
    facts = await examined(address, options)
    async with address.connected(
        settings=SETTINGS, command_timeout_seconds=options.command_timeout_seconds
    ) as connection:
        if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", name):
            if unless_shared is not None and facts.foreign:
                refuse_for_others(unless_shared, facts.foreign)
            # Replicas may start at the same moment. No lock: holders could take it, too, where they are let in.
            with suppress(asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError):
                await connection.execute(f"CREATE DATABASE {quoted(name)} TEMPLATE template0")
        if await open_to_all(connection, name):
            await _close(connection, name)
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{quote(name)}"))


async def close_control_database(dsn: str, *, options: ServerOptions) -> None:
    """Close a control plane's database that was there before to everybody else, or say that it is open.

    Raises:
        ConfigurationError: the DSN is malformed, or the server refuses its user, password or database.
        ServerRefused: it is on the deny list.
        BackendUnavailable: the server cannot be reached.
    """
    address = _address(dsn)
    with configured(address.name):
        session = await address.connect(
            settings=SETTINGS, command_timeout_seconds=options.command_timeout_seconds
        )
    try:
        await see_that_it_is_allowed(session, address, options)
        row = await session.fetchrow(_OPEN)
        if row is None:
            return
        name = str(row["datname"])
        if row["ours"] and name not in {"postgres", "template1"}:
            await _close(session, name)
        else:
            _log.warning(
                "everybody who may log in to %s may connect to the control plane's database %s, holders of leases too; "
                "its owner can mend that: REVOKE ALL ON DATABASE %s FROM PUBLIC",
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
