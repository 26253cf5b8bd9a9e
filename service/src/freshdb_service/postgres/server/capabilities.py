"""What a server says of itself, and whether it can, and may, be managed.

A server that must not be managed is told by its names (``denial``): what it was called, where it is said to be, what it
calls itself (``cluster_name``, ``inet_server_addr``), and what its databases are called.

``identity`` tells it from every other (the system identifier, which ``initdb`` draws): whoever connects later sees that it
is still the same one (``Address.connect``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from freshdb_service.errors import ServerRefused
from freshdb_service.postgres.names import Name, quoted
from freshdb_service.postgres.server.connections import (
    SETTINGS,
    Address,
    Connection,
    answering,
    closed,
    configured,
)
from freshdb_service.postgres.server.deny_list import refusal
from freshdb_service.postgres.server.options import ServerOptions

OLDEST_VERSION: Final = 15_00_00
MEMBERSHIP_OPTIONS_VERSION: Final = 16_00_00
"""From here on a membership says whether it inherits and whether it may be set."""
_SHOWN: Final = 5
"""So many names are enough to recognise a server by."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a server says of itself and of the role that the service is there.

    Attributes:
        connections: so many may be open at once by those who are nothing special.
        identity: the system identifier; ``None`` where the role may not ask for it.
        foreign: databases that nobody would take for one of ours; PostgreSQL's own are left out.
    """

    version: int
    is_superuser: bool
    may_be_replica: bool
    may_limit_files: bool
    role: str
    maintenance_database: str
    fsync: bool
    connections: int
    identity: int | None
    foreign: tuple[str, ...]


async def examined(address: Address, options: ServerOptions) -> Capabilities:
    """See that a server can be managed.

    Raises:
        ConfigurationError: the DSN is malformed, or the server refuses its user, password or database.
        ServerRefused: it cannot, or must not.
        BackendUnavailable: it cannot be reached.
    """
    with configured(address.name):
        connection = await address.connect(
            settings={"application_name": "freshdb", "search_path": SETTINGS["search_path"]},
            command_timeout_seconds=options.command_timeout_seconds,
        )
    try:
        with answering(address.name):
            return await _facts(connection, address, options)
    finally:
        await closed(connection)


async def _facts(connection: Connection, address: Address, options: ServerOptions) -> Capabilities:
    row = await connection.fetchrow(_QUESTION)
    if row is None:
        raise ServerRefused(f"the server {address.name} does not say who we are there")
    version: int = row["version"]
    role: str = row["role"]
    if version < OLDEST_VERSION:
        raise ServerRefused(
            f"the server {address.name} runs PostgreSQL {version // 10_000}; freshdb needs 15 or newer: upgrade it, or give "
            "another server"
        )
    others = tuple(one for one in row["databases"] if Name.parse(options.prefix, one) is None)
    await see_that_it_is_allowed(connection, address, options, others)
    if row["standby"]:
        raise ServerRefused(
            f"the server {address.name} is a standby, where nothing can be created: give its primary"
        )
    if not row["super"] and not row["makes"]:
        raise ServerRefused(
            f"on the server {address.name} the role {role} may not create databases and roles; as a superuser, run: "
            f"ALTER ROLE {quoted(role)} CREATEDB CREATEROLE"
        )
    if not row["super"] and not row["inherits"] and version < MEMBERSHIP_OPTIONS_VERSION:
        raise ServerRefused(
            f"on the server {address.name} the role {role} does not inherit the rights of the roles it creates; as a "
            f"superuser, run: ALTER ROLE {quoted(role)} INHERIT"
        )
    identity: int | None = None
    if row["may_identify"]:
        identity = await connection.fetchval("SELECT system_identifier FROM pg_control_system()")
    return Capabilities(
        version=version,
        is_superuser=bool(row["super"]),
        may_be_replica=bool(row["replica"]),
        may_limit_files=bool(row["may_limit_files"]),
        role=role,
        maintenance_database=str(row["database"]),
        fsync=bool(row["fsync"]),
        connections=int(row["connections"]),
        identity=identity,
        foreign=tuple(
            one for one in others if one not in {"template0", "template1", "postgres", row["database"]}
        ),
    )


async def see_that_it_is_allowed(
    connection: Connection, address: Address, options: ServerOptions, databases: Iterable[str] = ()
) -> None:
    """See that nothing that a server is called is on the deny list; ``databases`` are those that it holds.

    Raises:
        ServerRefused: something is.
    """
    if not options.deny:
        return
    row = await connection.fetchrow(
        "SELECT current_setting('cluster_name') AS cluster_name, host(inet_server_addr()) AS own_address, "
        "current_database() AS database"
    )
    own = {} if row is None else dict(row)
    denied = await refusal(
        options.deny,
        host=address.host,
        said=[
            ("its name", address.name),
            ("its host", address.host),
            ("its cluster_name", own.get("cluster_name")),
            ("its own address", own.get("own_address")),
            *(("its database", one) for one in dict.fromkeys((own.get("database"), *databases))),
        ],
    )
    if denied is not None:
        raise ServerRefused(
            f"the server {address.name} must not be managed: {denied}. If it may be all the same, set FRESHDB_DENY to a "
            "list without that"
        )


def refuse_for_others(server: str, foreign: Sequence[str]) -> NoReturn:
    """Say that a server holds databases of others, and what to do if that is meant.

    Raises:
        ServerRefused: always.
    """
    some = ", ".join(foreign[:_SHOWN]) + (", …" if len(foreign) > _SHOWN else "")
    raise ServerRefused(
        f"the server {server} holds databases that freshdb did not make ({some}); "
        f"if freshdb shall manage it all the same, say so: --adopt {server}"
    )


_QUESTION: Final = """
SELECT current_setting('server_version_num')::int AS version,
       pg_is_in_recovery() AS standby, current_setting('fsync')::bool AS fsync,
       r.rolname AS role, r.rolsuper AS super, r.rolcreatedb AND r.rolcreaterole AS makes,
       r.rolinherit AS inherits, current_database() AS database,
       has_parameter_privilege('session_replication_role', 'SET') AS replica,
       has_parameter_privilege('temp_file_limit', 'SET') AS may_limit_files,
       has_function_privilege('pg_control_system()', 'EXECUTE') AS may_identify,
       current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
         - coalesce(current_setting('reserved_connections', true)::int, 0) AS connections,
       ARRAY(SELECT datname::text FROM pg_database ORDER BY datname) AS databases
FROM pg_roles r WHERE r.rolname = current_user
"""
