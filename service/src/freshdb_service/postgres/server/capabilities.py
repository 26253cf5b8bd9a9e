"""Read the capabilities of a server, and check that it can and may be managed.

A server that must not be managed is recognised by its names (``deny_list``): the name in the configuration, the host, the
names that it reports (``cluster_name``, ``inet_server_addr``), and the names of its databases.

``identity`` distinguishes it from every other server. It is the system identifier, a random number of ``initdb``. Later
connections check that the server is still the same (``Address.connect``).
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
    close_connection,
    translate_outages,
    translate_refusals,
)
from freshdb_service.postgres.server.deny_list import find_denied
from freshdb_service.postgres.server.options import ServerOptions

OLDEST_VERSION: Final = 15_00_00
MEMBERSHIP_OPTIONS_VERSION: Final = 16_00_00
"""First version whose role memberships have the options INHERIT and SET."""
_SHOWN: Final = 5
"""Number of databases that a refusal names."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Properties of a server, and of the service's role there.

    Attributes:
        version: version of the server (``server_version_num``).
        is_superuser: true if the role is a superuser.
        may_be_replica: true if the role may set ``session_replication_role``.
        may_limit_files: true if the role may set ``temp_file_limit``.
        role: name of the role.
        maintenance_database: database that the DSN names.
        fsync: value of ``fsync``.
        connections: maximum connections of ordinary roles.
        identity: system identifier, or ``None`` where the role may not read it.
        foreign: databases whose names are not freshdb's, without PostgreSQL's own.
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


async def examine(address: Address, options: ServerOptions) -> Capabilities:
    """Check that a server can be managed, and return its capabilities.

    Raises:
        ConfigurationError: the DSN is malformed, or the server refuses its user, password or database.
        ServerRefused: the server cannot, or must not, be managed.
        BackendUnavailable: the server cannot be reached.
    """
    with translate_refusals(address.name):
        connection = await address.connect(
            settings={"application_name": "freshdb", "search_path": SETTINGS["search_path"]},
            command_timeout_seconds=options.command_timeout_seconds,
        )
    try:
        with translate_outages(address.name):
            return await _read_capabilities(connection, address, options)
    finally:
        await close_connection(connection)


async def _read_capabilities(
    connection: Connection, address: Address, options: ServerOptions
) -> Capabilities:
    row = await connection.fetchrow(_QUESTION)
    if row is None:
        raise ServerRefused(f"the server {address.name} does not report the service's role")
    version: int = row["version"]
    role: str = row["role"]
    if version < OLDEST_VERSION:
        raise ServerRefused(
            f"the server {address.name} runs PostgreSQL {version // 10_000}; freshdb needs 15 or newer: upgrade it, or use "
            "another server"
        )
    others = tuple(one for one in row["databases"] if Name.parse(options.prefix, one) is None)
    await check_deny_list(connection, address, options, others)
    if row["standby"]:
        raise ServerRefused(
            f"the server {address.name} is a standby, where nothing can be created: use its primary"
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


async def check_deny_list(
    connection: Connection, address: Address, options: ServerOptions, databases: Iterable[str] = ()
) -> None:
    """Check that no name of a server is on the deny list. ``databases`` are the names of its databases.

    Raises:
        ServerRefused: a name is on the list.
    """
    if not options.deny:
        return
    row = await connection.fetchrow(
        "SELECT current_setting('cluster_name') AS cluster_name, host(inet_server_addr()) AS own_address, "
        "current_database() AS database"
    )
    own = {} if row is None else dict(row)
    denied = await find_denied(
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
            f"the server {address.name} must not be managed: {denied}. To manage it all the same, set FRESHDB_DENY to a "
            "list without that entry"
        )


def refuse_foreign_databases(server: str, foreign: Sequence[str]) -> NoReturn:
    """Refuse a server that holds databases of others, and name the option that accepts it.

    Raises:
        ServerRefused: always.
    """
    some = ", ".join(foreign[:_SHOWN]) + (", …" if len(foreign) > _SHOWN else "")
    raise ServerRefused(
        f"the server {server} holds databases that freshdb did not create ({some}): "
        f"to let freshdb manage it all the same, add --adopt {server}"
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
