"""A connection pool to Redis, which runs Lua scripts by name and translates failures into one error."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Final
from uuid import UUID

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MovedError, RedisError
from redis.exceptions import TimeoutError as RedisTimeout

from freshdb_service.errors import BackendUnavailable, ConfigurationError
from freshdb_service.observability.instrumentation import Instrument, no_instrument

SCRIPTS: Final = (
    "deadline_admit",
    "deadline_expire",
    "deadline_keep",
    "deadline_lengthen",
    "deadline_renew",
    "deadline_restore",
    "deadline_settle",
    "queue_enter",
    "queue_leave",
    "queue_place",
    "queue_waiters",
    "queue_wake",
    "shared_work_claim",
)
REPEATABLE: Final = frozenset({"deadline_renew"})
"""Scripts that may run twice with the same result. They run again, once, when their connection is lost."""
OLDEST: Final = (6, 2)


class ConnectionLost(BackendUnavailable):
    """The connection was lost before Redis answered: the command may have run, or not."""


class _Pool(BlockingConnectionPool):
    """A pool that opens no connection after it was closed, because such a connection would never be closed."""

    closed = False

    async def get_connection(self, *command: object, **options: object) -> AbstractConnection:
        """Return a connection, unless the pool was closed.

        Raises:
            RedisConnectionError: the pool was closed, possibly while this connection was being opened.
            RedisTimeout: every connection is in use.
        """
        self._check_open()
        try:
            connection: AbstractConnection = await super().get_connection(*command, **options)  # type: ignore[no-untyped-call]
        except RedisConnectionError as error:
            if isinstance(error.__cause__, TimeoutError):  # no connection was lost, all are in use
                raise RedisTimeout(str(error)) from error
            raise
        try:
            self._check_open()
        except RedisConnectionError:
            await connection.disconnect()
            await self.release(connection)
            raise
        return connection

    async def ensure_connection(self, connection: AbstractConnection) -> None:
        """Connect, also if the connection was reset: redis-py (8.1, ``can_read``) detects only closed ones."""
        reader = connection._reader  # noqa: SLF001 - nothing public tells
        if reader is not None and reader.exception() is not None:
            await connection.disconnect()
        await super().ensure_connection(connection)

    async def close(self) -> None:
        """Close every connection, and open no more."""
        self.closed = True
        await self.disconnect()

    def _check_open(self) -> None:
        if self.closed:
            message = "this replica has closed its connections"
            raise RedisConnectionError(message)


class RedisConnection:
    """A pool of connections to one Redis (or Valkey), the key prefix of this installation, and the scripts."""

    def __init__(
        self,
        url: str,
        installation: UUID,
        *,
        max_connections: int = 50,
        timeout_seconds: float = 5.0,
        instrument: Instrument = no_instrument,
    ) -> None:
        try:
            parse_url(url)
        except ValueError as error:
            message = f"the Redis URL is wrong: {error}; it is given as redis://[user:password@]host:port/0"
            raise ConfigurationError(message) from None
        self.prefix = f"freshdb:{{{installation}}}:"
        self._instrument = instrument
        # No automatic retries: only the scripts in REPEATABLE are safe to repeat.
        # A burst waits for a connection instead of failing.
        self._pool: _Pool = _Pool.from_url(
            url,
            max_connections=max_connections,
            timeout=timeout_seconds,
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
        )
        self.client: Redis = Redis(connection_pool=self._pool)
        self._scripts: dict[str, AsyncScript] = {
            name: self.client.register_script(
                files(__package__).joinpath("scripts", f"{name}.lua").read_text()
            )
            for name in SCRIPTS
        }

    def key(self, *parts: object) -> str:
        """Return the full name of a key."""
        return self.prefix + ":".join(str(part) for part in parts)

    async def run(self, script: str, keys: Sequence[str], arguments: Sequence[str | int | float]) -> object:
        """Run a script by name. One of ``REPEATABLE`` runs again, once, when its connection is lost.

        Raises:
            BackendUnavailable: Redis is unavailable, or refuses.
        """
        with self._instrument(script):
            try:
                return await self._run_once(script, keys, arguments)
            except ConnectionLost:
                if script not in REPEATABLE:
                    raise
                return await self._run_once(script, keys, arguments)

    async def _run_once(
        self, script: str, keys: Sequence[str], arguments: Sequence[str | int | float]
    ) -> object:
        async with translated():
            return await self._scripts[script](keys=list(keys), args=list(arguments))

    async def check(self) -> None:
        """Check that Redis answers and is new enough.

        Raises:
            BackendUnavailable: it does not answer.
            ConfigurationError: it is older than 6.2.
        """
        async with translated():
            info = await self.client.info("server")
        version = str(info["redis_version"])
        if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
            message = f"Redis {version} is too old: 6.2 or newer is needed (or Valkey)"
            raise ConfigurationError(message)

    async def ping(self) -> None:
        """One round trip.

        Raises:
            BackendUnavailable: Redis is unavailable.
        """
        async with translated():
            await self.client.ping()

    async def close(self) -> None:
        """Close every connection. Later calls fail."""
        await self._pool.close()


@asynccontextmanager
async def translated() -> AsyncIterator[None]:
    """Translate Redis's failures into one error."""
    try:
        yield
    except RedisTimeout as error:
        message = f"Redis does not answer: {error}"
        raise BackendUnavailable(message, retry_after_seconds=1.0) from error
    except (RedisConnectionError, OSError) as error:
        message = f"Redis does not answer: {error}"
        raise ConnectionLost(message, retry_after_seconds=1.0) from error
    except RuntimeError as error:  # uvloop raises it when the connection was reset just before a write
        if "handler is closed" not in str(error):
            raise
        message = "Redis does not answer: the connection was reset"
        raise ConnectionLost(message, retry_after_seconds=1.0) from error
    except MovedError as error:
        message = (
            "this node of a Redis Cluster does not have the keys of this installation, which are all on one node: "
            f"name that one ({error.host}:{error.port}) as the Redis of every replica"
        )
        raise BackendUnavailable(message, retry_after_seconds=1.0) from error
    except RedisError as error:
        message = f"Redis refuses: {error}"
        raise BackendUnavailable(message, retry_after_seconds=1.0) from error
