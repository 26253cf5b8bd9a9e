"""One managed server: what it must be able to do, and the connections to it.

freshdb works as a superuser, and as a plain role that may create databases and roles, as managed servers give it. A plain
role makes itself a member of every role that it creates, and so may do what they may. It resets in more steps
(``cleaning``), fewer if it was given ``GRANT SET ON PARAMETER session_replication_role``.
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

from freshdb_service.observability.instrumentation import Visiting, unseen
from freshdb_service.observability.liveness import Liveness, Told, nobody
from freshdb_service.postgres.names import Kind, Name, literal, quoted
from freshdb_service.postgres.server.capabilities import Capabilities, examined
from freshdb_service.postgres.server.connections import (
    CONNECT_SECONDS,
    SETTINGS,
    Address,
    Connection,
    Login,
    answering,
    configured,
)
from freshdb_service.postgres.server.options import ServerOptions
from freshdb_service.postgres.server.passwords import Passwords
from freshdb_service.postgres.server.session_cache import AS_REPLICA, UNCOUNTED, Session, SessionCache
from freshdb_service.postgres.server.session_cache import SETTINGS as SESSION_SETTINGS

_TRANSACTION_TIMEOUT_VERSION: Final = 17_00_00


class Server:
    """A managed server, with a pool of connections to its maintenance database (the one that the DSN names)."""

    def __init__(
        self,
        address: Address,
        facts: Capabilities,
        pool: asyncpg.Pool[asyncpg.Record],
        liveness: Liveness,
        *,
        installation: UUID,
        options: ServerOptions,
        visiting: Visiting = unseen,
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
        self.sessions = SessionCache(address.name, self.open_session, options.idle_sessions, visiting)
        self.liveness = liveness
        self._address = address
        self._pool = pool
        self._visiting = visiting

    def __repr__(self) -> str:
        """Name the server; its DSN may hold a password."""
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
        visiting: Visiting = unseen,
        told: Told = nobody,
    ) -> Server:
        """Connect, and see that the server can be managed.

        Args:
            name: how the server is called in messages.
            dsn: as a role that is superuser, or may create databases and roles.
            installation: whose stamp everything made here bears.
            options: how the server is treated.
            harden: the server is ours alone: let nobody but its superuser into ``postgres`` and ``template1``.
            visiting: surrounds every visit.
            told: of its signs of life.

        Raises:
            ConfigurationError: the DSN is malformed, or the server refuses its user, password or database.
            ServerRefused: PostgreSQL is too old, a standby, or on the deny list; or the role may not create databases and
                roles.
            BackendUnavailable: the server cannot be reached.
        """
        Name.of(
            options.prefix, Kind.SHARED, installation
        )  # a prefix that cannot work is found here, not at the first lease
        address = Address.parse(name, dsn)
        facts = await examined(address, options)
        address = replace(address, identity=facts.identity)
        settings = _settings(facts.version)

        async def open_for_signs() -> Connection:
            return await address.connect(settings=settings, command_timeout_seconds=None)

        liveness = Liveness(
            f"the PostgreSQL server {name}",
            open_for_signs,
            every_seconds=options.answer_seconds / 2,
            told=told,
        )

        async def watch(connection: Connection) -> None:
            liveness.watch(connection)

        with configured(name), answering(name):
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
            address, facts, pool, liveness, installation=installation, options=options, visiting=visiting
        )
        if harden:
            await server._harden()
        return server

    @property
    def stamp(self) -> str:
        """The comment on everything of ours."""
        return f"freshdb:{self.installation}"

    @property
    def quoted_stamp(self) -> str:
        """The stamp, for a statement that takes no parameters."""
        return literal(self.stamp)

    async def close(self) -> None:
        """Close every connection; ends what is under way."""
        await self.sessions.close()
        await self.passwords.close()
        await self._pool.close()

    async def ping(self) -> None:
        """Ask for a sign of life.

        Raises:
            BackendUnavailable: there was none.
        """
        async with self.maintenance() as connection:
            await connection.execute("SELECT 1")

    @asynccontextmanager
    async def maintenance(self) -> AsyncIterator[Connection]:
        """A connection to the maintenance database, out of the pool."""
        with self._visiting("maintenance"), answering(self.name):
            self.liveness.check()
            async with self._pool.acquire(timeout=self.options.command_timeout_seconds) as connection:
                yield connection

    def inside(
        self, database: str, *, command_timeout_seconds: float | None = None
    ) -> AbstractAsyncContextManager[Connection]:
        """A connection of the service to one of our databases; gone when the block has ended."""
        return self._watched(
            self._address.connected(
                database=database,
                settings=_settings(self.version),
                command_timeout_seconds=command_timeout_seconds or self.options.command_timeout_seconds,
            )
        )

    @asynccontextmanager
    async def _watched(self, visit: AbstractAsyncContextManager[Connection]) -> AsyncIterator[Connection]:
        with self._visiting("inside"):
            self.liveness.check()
            async with visit as connection:
                self.liveness.watch(connection)
                yield connection

    async def open_session(self, database: str) -> Session:
        """A session for resets (``sessions``), which the caller closes."""
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
        """A connection as a builder or a holder.

        What they wrote runs in such a session and in no other: ``SET ROLE`` in a session of the service would not hold
        back a function that says ``RESET ROLE``.
        """
        return self._watched(
            self._address.connected(
                database=login.database,
                user=login.user,
                password=login.password,
                settings={"application_name": "freshdb", **settings},
                command_timeout_seconds=command_timeout_seconds,
            )
        )

    def libpq(self, database: str) -> tuple[str, dict[str, str]]:
        """The connection string and the environment for PostgreSQL's own programs; the password is in the latter alone."""
        parts = urlsplit(self._address.dsn)
        host = parts.netloc.rpartition("@")[2]
        user = quote(parts.username or "", safe="%")
        uri = urlunsplit(parts._replace(netloc=f"{user}@{host}" if user else host, path=f"/{database}"))
        return uri, {} if parts.password is None else {"PGPASSWORD": unquote(parts.password)}

    def name_of(self, kind: Kind, identifier: UUID, counter: int | None = None) -> Name:
        """Name an object of ours on this server."""
        return Name.of(self.options.prefix, kind, identifier, counter)

    async def _harden(self) -> None:
        async with self.maintenance() as connection:
            for database in ("postgres", "template1"):
                if await open_to_all(connection, database):
                    await connection.execute(f"REVOKE CONNECT ON DATABASE {quoted(database)} FROM PUBLIC")


async def open_to_all(connection: Connection, database: str) -> bool:
    """Whether PUBLIC may connect to a database that is ours to close."""
    found: bool | None = await connection.fetchval(
        "SELECT has_database_privilege('public', oid, 'CONNECT') AND pg_has_role(datdba, 'USAGE') "
        "FROM pg_database WHERE datname = $1",
        database,
    )
    return bool(found)


def _settings(version: int) -> dict[str, str]:
    return {**SETTINGS, "transaction_timeout": "0"} if version >= _TRANSACTION_TIMEOUT_VERSION else SETTINGS
