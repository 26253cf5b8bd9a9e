"""Connections of the service to a managed server, and the translation of their failures.

A lease's holder owns its database, and may leave settings in it (``ALTER DATABASE … SET``) that apply to every later
connection: a search path with the holder's own functions, a timeout of a millisecond, read-only transactions. So the service
sends its own value of every such setting when it connects. These values take precedence over the database's.

Every failure that means that the server is unavailable, or too busy to answer, becomes ``BackendUnavailable``. Its message
names the server, and never contains a password.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import wraps
from io import BytesIO
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, Protocol, TypeAlias, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

import asyncpg

from freshdb_service.errors import BackendUnavailable, ConfigurationError
from freshdb_service.observability.liveness import KEEPALIVES, cut_between

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"
T = TypeVar("T")
P = ParamSpec("P")


class _Named(Protocol):
    @property
    def name(self) -> str: ...


ServerT = TypeVar("ServerT", bound=_Named)

CONNECT_SECONDS: Final = 10.0
_CONFLICT_TRIES: Final = 100

SETTINGS: Final = {
    "application_name": "freshdb",
    "search_path": "pg_catalog, pg_temp",
    "role": "none",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "60s",  # the service pauses for milliseconds only, or has lost the connection
    "idle_session_timeout": "0",
    "default_transaction_read_only": "off",
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    "default_tablespace": "",
    "synchronous_commit": "on",
    "client_min_messages": "warning",
    "standard_conforming_strings": "on",
    "check_function_bodies": "off",
    "quote_all_identifiers": "off",
    "row_security": "off",
    "xmloption": "content",
    "jit": "off",
    "geqo": "off",  # its settings can demand two thousand million plans
    "local_preload_libraries": "",  # a library that does not exist refuses every connection
    "exit_on_error": "off",
    "array_nulls": "on",
    "transform_null_equals": "off",
    "vacuum_cost_delay": "0",
    **KEEPALIVES,
}
"""Settings of every connection of the service. ``row_security = off`` makes a filtered read an error, not a partial copy.
With ``synchronous_commit = on``, a login that was disabled stays disabled after a crash of the server.

``tests/hostile`` lists every setting that a holder can leave, and the reason why each one that is not here does no harm."""

_OUTAGES = (
    OSError,  # refused, reset, TLS, unknown host; and its subclass TimeoutError
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.DiskFullError,
    asyncpg.QueryCanceledError,
    asyncpg.IdleSessionTimeoutError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InternalClientError,  # asyncpg raises it if a backend ends at certain moments
)


@dataclass(frozen=True, slots=True)
class Login:
    """Names and password with which a builder or a holder connects. Host and port are the server's."""

    database: str
    schema: str | None
    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Address:
    """Address and identity of a server, with the service's DSN. ``repr`` shows no password.

    Attributes:
        name: name of the server in messages.
        host: host of the DSN.
        port: port of the DSN.
        dsn: DSN of the service.
        identity: system identifier, which every connection of the service compares, or ``None`` if it is not known.
    """

    name: str
    host: str
    port: int
    dsn: str = field(repr=False)
    identity: int | None = None

    @classmethod
    def parse(cls, name: str, dsn: str) -> Address:
        """Parse a DSN (``postgresql://…``).

        Raises:
            ConfigurationError: it is malformed, or names several hosts. The message does not contain it.
        """
        try:
            parts = urlsplit(dsn)
            query = {
                key: values[-1]
                for key, values in parse_qs(parts.query, strict_parsing=bool(parts.query)).items()
            }
            host = unquote(parts.hostname or "") or query.get("host", "")
            port = parts.port or int(query.get("port", "5432"))
        except ValueError as error:
            raise _malformed(name) from error
        if parts.scheme not in {"postgresql", "postgres"} or not host or "," in host:
            raise _malformed(name)
        return cls(name=name, host=host, port=port, dsn=dsn)

    async def connect(
        self,
        *,
        database: str | None = None,
        user: str | None = None,
        password: str | None = None,
        settings: dict[str, str],
        command_timeout_seconds: float | None,
        prepared_statements: int = 0,
    ) -> asyncpg.Connection[asyncpg.Record]:
        """Open one connection.

        Args:
            database: name of the database, by default the DSN's.
            user: name of the login, by default the service's role.
            password: password of ``user``.
            settings: settings of the session.
            command_timeout_seconds: timeout for one statement.
            prepared_statements: number of statements that the connection keeps prepared.

        Raises:
            BackendUnavailable: the server does not answer.
            asyncpg.PostgresError: the server refuses.
        """
        with translate_outages(self.name):
            connection = await asyncpg.connect(
                self.dsn,
                database=database,
                user=user,
                password=password,
                server_settings=settings,
                timeout=CONNECT_SECONDS,
                command_timeout=command_timeout_seconds,
                statement_cache_size=prepared_statements,
            )
            if user is None:
                await self._check_identity(connection)
        return connection

    async def connect_of_pool(
        self,
        *args: Any,  # noqa: ANN401 - the pool passes them
        **kwargs: Any,  # noqa: ANN401 - as above
    ) -> asyncpg.Connection[asyncpg.Record]:
        """Open one connection for a pool."""
        connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(*args, **kwargs)
        await self._check_identity(connection)
        return connection

    async def _check_identity(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        """Check that this is the server that was examined at the start. Another one may have taken its address.

        Raises:
            BackendUnavailable: it is another server.
        """
        if self.identity is None:
            return
        try:  # ``execute`` takes one round trip
            await connection.execute(
                f"SELECT 1 / (system_identifier = {self.identity:d})::int FROM pg_catalog.pg_control_system()"
            )
        except asyncpg.DivisionByZeroError as error:
            await close_connection(connection)
            raise BackendUnavailable(
                f"another PostgreSQL server answers at the address of {self.name} (its system identifier is not "
                f"{self.identity}), and freshdb changes nothing on it: bring the right server back, or, if this is the "
                "right one, restart freshdb",
                retry_after_seconds=5.0,
            ) from error
        except BaseException:
            await close_connection(connection)
            raise

    @asynccontextmanager
    async def connected(
        self,
        *,
        database: str | None = None,
        user: str | None = None,
        password: str | None = None,
        settings: dict[str, str],
        command_timeout_seconds: float | None,
    ) -> AsyncIterator[Connection]:
        """Open a connection for one block. It has left the server when the block ends."""
        connection = await self.connect(
            database=database,
            user=user,
            password=password,
            settings=settings,
            command_timeout_seconds=command_timeout_seconds,
        )
        try:
            with translate_outages(self.name):
                yield connection
        finally:
            await close_connection(connection)


def ignore_lost_connections(loop: asyncio.AbstractEventLoop) -> None:
    """Keep the loop from logging a connection that was lost in the middle of a COPY.

    asyncpg (0.32, ``copy_in``) raises this error. It also abandons a future with the same error if its transport refuses to
    write after it was closed, as uvloop's transports do. The log line would look like a bug in freshdb.
    """

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not isinstance(context.get("exception"), asyncpg.ConnectionDoesNotExistError):
            loop.default_exception_handler(context)

    loop.set_exception_handler(handle)


@contextmanager
def translate_refusals(name: str) -> Iterator[None]:
    """Translate a server's refusal of a DSN into a ``ConfigurationError`` that names the fault."""
    try:
        yield
    except (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError) as error:
        raise ConfigurationError(f"the server {name} refuses the DSN's user or password: {error}") from error
    except asyncpg.InvalidCatalogNameError as error:
        raise ConfigurationError(
            f"the DSN of the server {name} names a database that does not exist: {error}"
        ) from error
    except (asyncpg.ClientConfigurationError, ValueError) as error:
        raise _malformed(name) from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise ConfigurationError(f"the server {name} does not let the DSN's user in: {error}") from error


@contextmanager
def translate_outages(name: str) -> Iterator[None]:
    """Translate every failure that means that a server is unavailable into ``BackendUnavailable``."""
    try:
        yield
    except _OUTAGES as error:
        raise unavailable(name, error) from error
    except asyncpg.InterfaceError as error:
        # asyncpg has no error class for a connection or a pool that was closed while it was in use. A connection of a
        # pool that was lost "has been released back".
        if not any(word in str(error) for word in ("clos", "released back")):
            raise
        raise unavailable(name, error) from error
    except (AttributeError, RuntimeError) as error:
        if not cut_between(error):
            raise
        raise unavailable(name, error) from error


def operation(
    work: Callable[Concatenate[ServerT, P], Awaitable[T]],
) -> Callable[Concatenate[ServerT, P], Coroutine[object, object, T]]:
    """Mark a public operation on a server: callers get one error for every refusal by PostgreSQL that is not expected."""

    @wraps(work)
    async def named(server: ServerT, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            with translate_outages(server.name):
                return await work(server, *args, **kwargs)
        except asyncpg.PostgresError as error:
            raise BackendUnavailable(
                f"the PostgreSQL server {server.name} refused: {error} ({error.sqlstate})",
                retry_after_seconds=5.0,
            ) from error

    return named


def unavailable(name: str, error: BaseException) -> BackendUnavailable:
    """Compose the error for a server that does not answer."""
    reason = str(error) or ("it took too long" if isinstance(error, TimeoutError) else type(error).__name__)
    return BackendUnavailable(
        f"the PostgreSQL server {name} does not answer: {reason}", retry_after_seconds=1.0
    )


async def close_connection(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Close a connection and wait until it has left the server, so that the database can be cloned or dropped."""
    with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        await connection.close(timeout=CONNECT_SECONDS)


async def execute_script(
    connection: Connection, script: str, *, timeout_seconds: float | None = None
) -> None:
    """Run any number of statements, or none, in one message.

    Raises:
        asyncpg.PostgresError: a statement failed.
        TimeoutError: the statements took too long.
    """
    try:
        await connection.execute(script, timeout=timeout_seconds)
    except AttributeError:
        # asyncpg fails on PostgreSQL's answer to a script without a statement (empty, or comments only), after it has
        # read the answer. The connection can still be used.
        if connection.is_closed():
            raise


async def copy_in(connection: Connection, statement: str, data: bytes, *, timeout_seconds: float) -> None:
    """Run any ``COPY … FROM stdin`` with these rows. asyncpg offers this only for statements that it composes itself.

    Raises:
        asyncpg.PostgresError: the statement failed.
        TimeoutError: it took too long.
    """
    await connection._copy_in(statement, BytesIO(data), timeout_seconds)  # type: ignore[union-attr]  # noqa: SLF001


async def copy_out(connection: Connection, statement: str, *, timeout_seconds: float) -> None:
    """Run any ``COPY … TO stdout`` and drop the rows. Raises what ``copy_in`` raises."""

    async def drop(_: bytes) -> None:
        return

    await connection._copy_out(statement, drop, timeout_seconds)  # type: ignore[union-attr]  # noqa: SLF001


async def without_conflict(connection: Connection, change: Callable[[], Awaitable[T]]) -> T:
    """Repeat a change to a row of the shared catalogs (such as a grant on a database) until it meets no concurrent change.

    PostgreSQL does not queue such changes: the second one waits for the first one's commit, and then fails. Inside a
    transaction, the change is rolled back to a savepoint and repeated.

    Raises:
        asyncpg.PostgresError: it still fails after many attempts.
    """
    for attempt in range(_CONFLICT_TRIES):
        try:
            async with connection.transaction():
                return await change()
        except (
            asyncpg.InternalServerError,
            asyncpg.UniqueViolationError,
            asyncpg.DeadlockDetectedError,
        ) as error:
            # "tuple concurrently updated" (or deleted) has no code of its own.
            concurrent = not isinstance(error, asyncpg.InternalServerError) or "concurrently" in str(error)
            if not concurrent or attempt == _CONFLICT_TRIES - 1:
                raise
        await asyncio.sleep(random.uniform(0.001, 0.01))  # noqa: S311 - no secret, only a random pause
    raise AssertionError


def _malformed(name: str) -> ConfigurationError:
    return ConfigurationError(
        f"the DSN of the server {name} is malformed: write postgresql://user:password@host:port/database, with one host"
    )
