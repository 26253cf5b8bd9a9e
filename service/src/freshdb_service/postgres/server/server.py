"""One managed server, and the connections to it.

freshdb works as a superuser, or as a plain role that may create databases and roles, which is what hosted PostgreSQL offers.
A plain role makes itself a member of every role that it creates, and so has their rights. Its resets take more steps
(``reset.cleaning_engine``), or fewer steps after ``GRANT SET ON PARAMETER session_replication_role``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Final
from urllib.parse import quote, unquote, urlsplit, urlunsplit
from uuid import UUID

import asyncpg

from freshdb_reset import Rights
from freshdb_service.observability.instrumentation import Instrument, no_instrument
from freshdb_service.observability.liveness import Liveness, OnProbe, ignore
from freshdb_service.postgres.names import Kind, Name, literal, quoted
from freshdb_service.postgres.server.capabilities import Capabilities, examine
from freshdb_service.postgres.server.connections import (
    CONNECT_SECONDS,
    SETTINGS,
    Address,
    Connection,
    Login,
    translate_outages,
    translate_refusals,
)
from freshdb_service.postgres.server.options import ServerOptions
from freshdb_service.postgres.server.passwords import Passwords
from freshdb_service.postgres.server.session_cache import AS_REPLICA, UNCOUNTED, Session, SessionCache
from freshdb_service.postgres.server.session_cache import SETTINGS as SESSION_SETTINGS

_TRANSACTION_TIMEOUT_VERSION: Final = 17_00_00


class Server:
    """A managed server, with a pool of connections to its maintenance database, which the DSN names."""

    def __init__(
        self,
        address: Address,
        facts: Capabilities,
        pool: asyncpg.Pool[asyncpg.Record],
        liveness: Liveness,
        *,
        installation: UUID,
        options: ServerOptions,
        instrument: Instrument = no_instrument,
    ) -> None:
        self.name = address.name
        self.host = address.host
        self.port = address.port
        self.version = facts.version
        self.is_superuser = facts.is_superuser
        self.may_be_replica = facts.may_be_replica
        self.role = facts.role
        self.may_limit_files = facts.may_limit_files
        self.maintenance_database = facts.maintenance_database
        self.connection_limit = min(options.connection_limit, max(facts.connections // 2, 1))
        self.installation = installation
        self.options = options
        self.file_copy = options.clone_strategy == "file_copy" or (
            options.clone_strategy == "auto" and not facts.fsync
        )
        self.rebuilds = asyncio.Semaphore(options.rebuilds)
        self.passwords = Passwords(options.scram_iterations)
        self.sessions = SessionCache(address.name, self.open_session, options.idle_sessions, instrument)
        self.liveness = liveness
        self._address = address
        self._pool = pool
        self._instrument = instrument

    @property
    def rights(self) -> Rights:
        """What the sessions of ``sessions`` may do."""
        return Rights(self.version, superuser=self.is_superuser, as_replica=self.may_be_replica)

    def __repr__(self) -> str:
        """Return name, address and version. The DSN may hold a password."""
        return f"<Server {self.name} {self.host}:{self.port} PostgreSQL {self.version // 10_000}>"

    @classmethod
    async def open(
        cls,
        name: str,
        dsn: str,
        *,
        installation: UUID,
        options: ServerOptions,
        harden: bool = False,
        instrument: Instrument = no_instrument,
        on_probe: OnProbe = ignore,
    ) -> Server:
        """Connect, and check that the server can be managed.

        Args:
            name: name of the server in messages.
            dsn: DSN of a superuser, or of a role that may create databases and roles.
            installation: id of the installation, which is in the stamp of every object that it creates.
            options: options for all managed servers.
            harden: true for a server of freshdb's own: only its superuser may connect to ``postgres`` and ``template1``.
            instrument: context of every use of a connection, for metrics and traces.
            on_probe: callback after each liveness probe.

        Raises:
            ConfigurationError: the DSN is malformed, or the server refuses its user, password or database.
            ServerRefused: PostgreSQL is too old, a standby, or on the deny list, or the role may not create databases
                and roles.
            BackendUnavailable: the server cannot be reached.
        """
        Name.of(
            options.prefix, Kind.SHARED, installation
        )  # refuses a malformed prefix before the first lease
        address = Address.parse(name, dsn)
        facts = await examine(address, options)
        address = replace(address, identity=facts.identity)
        settings = _settings(facts.version)

        async def open_for_signs() -> Connection:
            return await address.connect(settings=settings, command_timeout_seconds=None)

        liveness = Liveness(
            f"the PostgreSQL server {name}",
            open_for_signs,
            every_seconds=options.answer_seconds / 2,
            on_probe=on_probe,
        )

        async def watch(connection: Connection) -> None:
            liveness.watch(connection)

        with translate_refusals(name), translate_outages(name):
            pool = await asyncpg.create_pool(
                dsn,
                min_size=1,
                max_size=options.pool_size,
                timeout=CONNECT_SECONDS,
                command_timeout=options.command_timeout_seconds,
                server_settings=settings,
                connect=address.connect_of_pool,
                init=watch,
            )
        server = cls(
            address, facts, pool, liveness, installation=installation, options=options, instrument=instrument
        )
        if harden:
            await server._harden()
        return server

    @property
    def stamp(self) -> str:
        """Comment on every object of this installation."""
        return f"freshdb:{self.installation}"

    @property
    def quoted_stamp(self) -> str:
        """The stamp, quoted for a statement that takes no parameters."""
        return literal(self.stamp)

    async def close(self) -> None:
        """Close every connection. Statements that are still running are cancelled."""
        await self.sessions.close()
        await self.passwords.close()
        await self._pool.close()

    async def ping(self) -> None:
        """Check that the server answers.

        Raises:
            BackendUnavailable: it does not.
        """
        async with self.maintenance() as connection:
            await connection.execute("SELECT 1")

    @asynccontextmanager
    async def maintenance(self) -> AsyncIterator[Connection]:
        """Lend a connection to the maintenance database, from the pool."""
        with self._instrument("maintenance"), translate_outages(self.name):
            self.liveness.check()
            async with self._pool.acquire(timeout=self.options.command_timeout_seconds) as connection:
                yield connection

    def inside(
        self, database: str, *, command_timeout_seconds: float | None = None
    ) -> AbstractAsyncContextManager[Connection]:
        """Open a connection of the service to a database, for one block."""
        return self._watch_visit(
            self._address.connected(
                database=database,
                settings=_settings(self.version),
                command_timeout_seconds=command_timeout_seconds or self.options.command_timeout_seconds,
            )
        )

    def installing(
        self, database: str, *, command_timeout_seconds: float
    ) -> AbstractAsyncContextManager[Connection]:
        """Open a connection to a database that no client has entered yet, to install extensions.

        It begins with the server's search path, which some extensions append themselves to. A database that a client has
        entered could have a search path with functions of the client.
        """
        settings = {name: value for name, value in _settings(self.version).items() if name != "search_path"}
        return self._watch_visit(
            self._address.connected(
                database=database, settings=settings, command_timeout_seconds=command_timeout_seconds
            )
        )

    @asynccontextmanager
    async def _watch_visit(self, visit: AbstractAsyncContextManager[Connection]) -> AsyncIterator[Connection]:
        with self._instrument("inside"):
            self.liveness.check()
            async with visit as connection:
                self.liveness.watch(connection)
                yield connection

    async def open_session(self, database: str) -> Session:
        """Open a session for resets (``session_cache``). The caller closes it."""
        granted = (UNCOUNTED if self.is_superuser else {}) | (AS_REPLICA if self.may_be_replica else {})
        self.liveness.check()
        session = await self._address.connect(
            database=database,
            settings={**_settings(self.version), **SESSION_SETTINGS, **granted},
            command_timeout_seconds=self.options.command_timeout_seconds,
            prepared_statements=50,
        )
        self.liveness.watch(session)
        return session

    def logged_in(
        self, login: Login, *, settings: dict[str, str], command_timeout_seconds: float
    ) -> AbstractAsyncContextManager[Connection]:
        """Open a connection as a builder or a holder, for one block.

        SQL and functions of builders and holders run in such sessions only. In a session of the service, ``SET ROLE`` would
        not be enough, because a function can call ``RESET ROLE``.
        """
        return self._watch_visit(
            self._address.connected(
                database=login.database,
                user=login.user,
                password=login.password,
                settings={"application_name": "freshdb", **settings},
                command_timeout_seconds=command_timeout_seconds,
            )
        )

    def libpq(self, database: str) -> tuple[str, dict[str, str]]:
        """Return the connection string and the environment for PostgreSQL's programs. Only the latter has the password."""
        parts = urlsplit(self._address.dsn)
        host = parts.netloc.rpartition("@")[2]
        user = quote(parts.username or "", safe="%")
        uri = urlunsplit(parts._replace(netloc=f"{user}@{host}" if user else host, path=f"/{database}"))
        return uri, {} if parts.password is None else {"PGPASSWORD": unquote(parts.password)}

    def name_of(self, kind: Kind, identifier: UUID, counter: int | None = None) -> Name:
        """Compose the name of an object of this installation."""
        return Name.of(self.options.prefix, kind, identifier, counter)

    async def _harden(self) -> None:
        async with self.maintenance() as connection:
            for database in ("postgres", "template1"):
                if await public_may_connect(connection, database):
                    await connection.execute(f"REVOKE CONNECT ON DATABASE {quoted(database)} FROM PUBLIC")


async def public_may_connect(connection: Connection, database: str) -> bool:
    """Return whether PUBLIC may connect to a database whose owner's rights this role has."""
    found: bool | None = await connection.fetchval(
        "SELECT has_database_privilege('public', oid, 'CONNECT') AND pg_has_role(datdba, 'USAGE') "
        "FROM pg_database WHERE datname = $1",
        database,
    )
    return bool(found)


def _settings(version: int) -> dict[str, str]:
    return {**SETTINGS, "transaction_timeout": "0"} if version >= _TRANSACTION_TIMEOUT_VERSION else SETTINGS
