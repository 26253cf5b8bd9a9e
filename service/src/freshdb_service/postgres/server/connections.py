"""How the service connects to a managed server, and what a connection's failure means.

A lease's holder owns its database, and may leave settings there (``ALTER DATABASE … SET``) that would reach whoever
connects next: a search path with functions of the holder's own, a timeout of a millisecond, read-only transactions. The
service therefore sends its own value of every such setting when it connects; those outrank the database's.

Everything that means "the server is away, or too busy to answer" becomes ``BackendUnavailable``, naming the server and
never a password.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import wraps
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
    "idle_in_transaction_session_timeout": "60s",  # we pause for milliseconds, or are not heard any more
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
    "geqo": "off",  # with a pool of two thousand million plans, say
    "local_preload_libraries": "",  # one that is not there keeps everybody out
    "exit_on_error": "off",
    "array_nulls": "on",
    "transform_null_equals": "off",
    "vacuum_cost_delay": "0",
    **KEEPALIVES,
}
"""What every connection of the service sends. ``row_security = off`` makes a filtered read an error, not a partial copy.
With ``synchronous_commit = on``, no crash of the server brings a login back that was shut out.

``tests/hostile`` knows every setting that a holder can leave, and why those that are not here do no harm."""

_AWAY = (
    OSError,  # refused, reset, TLS, no such host; and TimeoutError, a subclass of it
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.DiskFullError,
    asyncpg.QueryCanceledError,
    asyncpg.IdleSessionTimeoutError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InternalClientError,  # what asyncpg makes of a backend that was ended at an unlucky moment
)


@dataclass(frozen=True, slots=True)
class Login:
    """How a builder or a holder connects; the server's host and port go with it."""

    database: str
    schema: str | None
    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is, whom the service is there, and which one it is. ``repr`` shows no password.

    Attributes:
        identity: its system identifier; the service's connections see that it is this one. ``None`` if that is not known.
    """

    name: str
    host: str
    port: int
    dsn: str = field(repr=False)
    identity: int | None = None

    @classmethod
    def parse(cls, name: str, dsn: str) -> Address:
        """Read a DSN (``postgresql://…``).

        Raises:
            ConfigurationError: it is malformed, or names several hosts; the message never repeats it.
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
        """Open one connection, as the service unless told otherwise, that keeps so many statements prepared.

        Raises:
            BackendUnavailable: the server does not answer.
            asyncpg.PostgresError: it answers, and refuses.
        """
        with answering(self.name):
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
                await self._recognise(connection)
        return connection

    async def connect_of_pool(
        self,
        *args: Any,  # noqa: ANN401 - whatever the pool hands on
        **kwargs: Any,  # noqa: ANN401 - likewise
    ) -> asyncpg.Connection[asyncpg.Record]:
        """Open one connection as a pool asks for it."""
        connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(*args, **kwargs)
        await self._recognise(connection)
        return connection

    async def _recognise(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        """See that this is the server that was examined at the start: another one may have taken its place.

        Raises:
            BackendUnavailable: it is another one.
        """
        if self.identity is None:
            return
        try:  # what gives no rows takes one round trip
            await connection.execute(
                f"SELECT 1 / (system_identifier = {self.identity:d})::int FROM pg_catalog.pg_control_system()"
            )
        except asyncpg.DivisionByZeroError as error:
            await closed(connection)
            raise BackendUnavailable(
                f"where the PostgreSQL server {self.name} was, there is another one (its system identifier is not "
                f"{self.identity}): nothing is done to it. Bring the right one back; if this is the right one, restart "
                "freshdb",
                retry_after_seconds=5.0,
            ) from error
        except BaseException:
            await closed(connection)
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
        """A connection for the length of the block; gone from the server when the block has ended."""
        connection = await self.connect(
            database=database,
            user=user,
            password=password,
            settings=settings,
            command_timeout_seconds=command_timeout_seconds,
        )
        try:
            with answering(self.name):
                yield connection
        finally:
            await closed(connection)


def forgive_lost_connections(loop: asyncio.AbstractEventLoop) -> None:
    """Keep the loop from reporting what was raised already: that a connection was lost in the middle of a COPY.

    asyncpg (0.32, ``copy_in``) raises it, and forgets the future that has the same news where its transport, as uvloop's
    do, refuses to write to what is closed. Whoever reads the log at night would look for a bug of ours.
    """

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not isinstance(context.get("exception"), asyncpg.ConnectionDoesNotExistError):
            loop.default_exception_handler(context)

    loop.set_exception_handler(handle)


@contextmanager
def configured(name: str) -> Iterator[None]:
    """Turn a server's refusal of a DSN into a ``ConfigurationError`` that says what is wrong with it."""
    try:
        yield
    except (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError) as error:
        raise ConfigurationError(f"the server {name} refuses the DSN's user or password: {error}") from error
    except asyncpg.InvalidCatalogNameError as error:
        raise ConfigurationError(
            f"the DSN of the server {name} names a database that is not there: {error}"
        ) from error
    except (asyncpg.ClientConfigurationError, ValueError) as error:
        raise _malformed(name) from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise ConfigurationError(f"the server {name} does not let the DSN's user in: {error}") from error


@contextmanager
def answering(name: str) -> Iterator[None]:
    """Turn every failure that means "away" into ``BackendUnavailable``."""
    try:
        yield
    except _AWAY as error:
        raise away(name, error) from error
    except asyncpg.InterfaceError as error:
        # asyncpg has no type of its own for a connection, or a pool, that was closed under our hands; one of a pool's
        # that was lost "has been released back".
        if not any(word in str(error) for word in ("clos", "released back")):
            raise
        raise away(name, error) from error
    except (AttributeError, RuntimeError) as error:
        if not cut_between(error):
            raise
        raise away(name, error) from error


def operation(
    work: Callable[Concatenate[ServerT, P], Awaitable[T]],
) -> Callable[Concatenate[ServerT, P], Coroutine[object, object, T]]:
    """Mark what callers outside do to a server: whatever PostgreSQL refuses that nobody expected, they see as one error."""

    @wraps(work)
    async def named(server: ServerT, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            with answering(server.name):
                return await work(server, *args, **kwargs)
        except asyncpg.PostgresError as error:
            raise BackendUnavailable(
                f"the PostgreSQL server {server.name} refused: {error} ({error.sqlstate})",
                retry_after_seconds=5.0,
            ) from error

    return named


def away(name: str, error: BaseException) -> BackendUnavailable:
    """Say that a server does not answer."""
    reason = str(error) or ("it took too long" if isinstance(error, TimeoutError) else type(error).__name__)
    return BackendUnavailable(
        f"the PostgreSQL server {name} does not answer: {reason}", retry_after_seconds=1.0
    )


async def closed(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Close a connection, and return when the server has let go of it, so that the database can be cloned or dropped."""
    with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        await connection.close(timeout=CONNECT_SECONDS)


async def execute_script(
    connection: Connection, script: str, *, timeout_seconds: float | None = None
) -> None:
    """Run any number of statements, also none at all, in one message.

    Raises:
        asyncpg.PostgresError: one failed.
        TimeoutError: they took too long.
    """
    try:
        await connection.execute(script, timeout=timeout_seconds)
    except AttributeError:
        # asyncpg stumbles over PostgreSQL's answer to a script without a statement (empty, or comments alone) after it has
        # read it; the connection is as good as before.
        if connection.is_closed():
            raise


async def without_conflict(connection: Connection, change: Callable[[], Awaitable[T]]) -> T:
    """Make a change to a shared row of the catalogs (a grant on a database, say) that others change at the same moment.

    PostgreSQL does not queue such changes: the second to come waits for the first one's commit, and then fails. Inside a
    transaction the change is undone to a savepoint and made again.

    Raises:
        asyncpg.PostgresError: if it still fails after many tries.
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
        await asyncio.sleep(random.uniform(0.001, 0.01))  # noqa: S311 - no secret: it only spreads the contenders
    raise AssertionError


def _malformed(name: str) -> ConfigurationError:
    return ConfigurationError(
        f"the DSN of the server {name} is malformed: write postgresql://user:password@host:port/database, one host only"
    )
