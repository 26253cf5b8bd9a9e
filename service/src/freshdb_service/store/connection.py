"""Connections to the control plane's database, and the meaning of their failures."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, Final

from sqlalchemy import ExceptionContext, NullPool, event, text
from sqlalchemy.exc import DataError, DBAPIError, DisconnectionError, IntegrityError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from freshdb_service.errors import BackendUnavailable
from freshdb_service.lifecycle import IllegalTransition
from freshdb_service.observability.instrumentation import Instrument, no_instrument
from freshdb_service.observability.liveness import KEEPALIVES, Liveness, OnProbe, cut_between, ignore

_UNIQUE_VIOLATION: Final = "23505"
_ILLEGAL_TRANSITION: Final = "LC001"
"""Raised by the triggers of migration 0006."""
_OUR_MISTAKE = (ProgrammingError, DataError)
_OUR_MISTAKE_CLASSES: Final = ("22", "42")
"""The same as classes of SQLSTATE."""


SETTINGS: Final = {
    "application_name": "freshdb control plane",
    "jit": "off",
    # A crash of the server must not undo a grant that was answered, even where its default allows losing the last commits.
    "synchronous_commit": "on",
    # Settings of our role or of the database must not apply here.
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_session_timeout": "0",
    "default_transaction_read_only": "off",
    "default_transaction_isolation": "read committed",
    # The sessions and locks of a replica whose machine or network has failed would stay without keepalives.
    **KEEPALIVES,
    # Planning the grant again takes longer than running it.
    "plan_cache_mode": "force_generic_plan",
}

Connection = AsyncConnection
"""A connection that runs statements."""


class ConstraintViolated(Exception):
    """A statement violated a constraint of the control plane. It changed nothing."""


class Store:
    """The control plane's database.

    On a connection of ``statement()``, every statement is a transaction (one round trip). A connection of ``transaction()``
    runs several statements, all or none.
    """

    def __init__(
        self,
        dsn: str,
        *,
        pool_size: int = 20,
        answer_seconds: float = 10.0,
        instrument: Instrument = no_instrument,
        on_probe: OnProbe = ignore,
    ) -> None:
        url = dsn.replace("postgres://", "postgresql://", 1).replace(
            "postgresql://", "postgresql+asyncpg://", 1
        )
        connect_arguments = {
            "command_timeout": answer_seconds,
            "timeout": answer_seconds / 2,
            "server_settings": SETTINGS
            | {
                # A session that is idle in a transaction for this long is ended, to release its locks.
                "idle_in_transaction_session_timeout": f"{round(answer_seconds * 1000)}ms"
            },
        }
        self.engine: AsyncEngine = create_async_engine(
            url,
            pool_size=pool_size,
            max_overflow=0,  # an overflow connection is closed when it is returned, which ``driver`` cannot do
            pool_timeout=answer_seconds / 2,
            pool_use_lifo=True,  # the last used connection has prepared statements
            connect_args=connect_arguments,
        )
        self._single = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self._apart = create_async_engine(url, poolclass=NullPool, connect_args=connect_arguments)
        self.patient: Final = create_async_engine(
            url, poolclass=NullPool, connect_args={**connect_arguments, "command_timeout": None}
        )
        """An engine without a command timeout: for migrations, and for waiting until another replica has migrated."""
        self.liveness: Final = Liveness(
            "the control plane's database",
            self._opened_apart,
            every_seconds=answer_seconds / 2,
            on_probe=on_probe,
        )
        self._instrument = instrument
        event.listen(self.engine.sync_engine, "connect", self._connected)
        event.listen(self.engine.sync_engine, "checkout", _checked)
        event.listen(self.engine.sync_engine, "handle_error", _one_alone)

    async def close(self) -> None:
        """Close every connection."""
        await self.engine.dispose()
        await self._apart.dispose()
        await self.patient.dispose()

    def _connected(self, connection: Any, _: object) -> None:  # noqa: ANN401 - SQLAlchemy's adapter of the driver
        self.liveness.watch(connection.driver_connection)

    async def _opened_apart(self) -> Any:  # noqa: ANN401 - the driver's own connection
        """Open a connection outside the pool."""
        pooled = await self._apart.raw_connection()
        driver = pooled.driver_connection
        pooled.detach()
        return driver

    async def ping(self) -> None:
        """One round trip.

        Raises:
            BackendUnavailable: the database is unavailable.
        """
        async with self.statement() as connection:
            await connection.execute(text("SELECT 1"))

    def statement(self) -> _Session:
        """Return a connection on which each statement commits by itself."""
        return _Session(self.liveness, self._single.connect(), self._instrument("statement"))

    def transaction(self) -> _Session:
        """Return a transaction: committed at the end, rolled back on any error."""
        return _Session(self.liveness, self.engine.begin(), self._instrument("transaction"))

    @asynccontextmanager
    async def driver(self, what: str = "driver") -> AsyncIterator[Any]:
        """Return the driver's own connection, for hot statements. Each statement commits by itself.

        ``what`` names the statement in metrics and traces.
        """
        with self._instrument(what):
            self.liveness.check()
            try:
                pooled = await self.engine.raw_connection()
            except (
                Exception
            ) as error:  # no statement was sent; some errors come from the driver's adapter unwrapped
                raise _unavailable(str(error) or type(error).__name__) from error
            driver: Any = pooled.driver_connection
            try:
                yield driver
            except Exception as error:
                if getattr(error, "sqlstate", None) == _UNIQUE_VIOLATION:
                    raise ConstraintViolated(str(error)) from error
                if getattr(error, "sqlstate", None) == _ILLEGAL_TRANSITION:
                    raise IllegalTransition(str(error)) from error
                if _is_unavailable(error, driver):
                    pooled.invalidate(error)
                    raise _unavailable(str(error) or type(error).__name__) from error
                raise
            finally:
                pooled.close()

    @asynccontextmanager
    async def session(self, *, on_end: Callable[[], object]) -> AsyncIterator[Any]:
        """Open a driver's connection outside the pool, which ends with the block.

        Args:
            on_end: called when the server ends the connection before.
        """
        self.liveness.check()
        try:
            driver = await self._opened_apart()
        except Exception as error:
            raise _unavailable(str(error) or type(error).__name__) from error
        self.liveness.watch(driver)
        driver.add_termination_listener(lambda _: on_end())
        try:
            yield driver
        except Exception as error:
            if _is_unavailable(error, driver):
                raise _unavailable(str(error) or type(error).__name__) from error
            raise
        finally:
            driver.terminate()


class _Session:
    """One use of a connection. Its failures are translated into errors of this package."""

    def __init__(
        self,
        liveness: Liveness,
        visit: AbstractAsyncContextManager[AsyncConnection],
        seen: AbstractContextManager[object],
    ) -> None:
        self._liveness = liveness
        self._visit = visit
        self._seen = seen
        self._connection: AsyncConnection | None = None

    async def __aenter__(self) -> AsyncConnection:
        self._seen.__enter__()
        try:
            self._liveness.check()
            self._connection = await self._visit.__aenter__()
        except BaseException as error:
            ours = _translated(error) if isinstance(error, Exception) else error
            self._seen.__exit__(type(ours), ours, None)
            if ours is error:
                raise
            raise ours from error
        return self._connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        ended_with = error
        try:
            await self._leave(kind, error, traceback)
        except BaseException as failure:
            ended_with = failure
            raise
        finally:
            self._seen.__exit__(None if ended_with is None else type(ended_with), ended_with, None)

    async def _leave(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if isinstance(error, TimeoutError) and self._connection is not None:
                # The connection may never answer again, and SQLAlchemy would give it to the next caller.
                await self._connection.invalidate(error)
            await self._visit.__aexit__(kind, error, traceback)
        except Exception as failure:
            raise _translated(failure) from failure
        if isinstance(error, Exception) and (ours := _translated(error)) is not error:
            raise ours from error


def _checked(connection: Any, _record: object, _proxy: object) -> None:  # noqa: ANN401 - SQLAlchemy's adapter of the driver
    """Refuse a closed connection. SQLAlchemy calls this before it uses a connection of the pool."""
    if connection.driver_connection.is_closed():
        raise DisconnectionError("the server has closed the connection")


def _one_alone(context: ExceptionContext) -> None:
    """Keep the other connections when one is lost: ``_checked`` checks each of them.

    SQLAlchemy calls this on errors. The pool would decide by the wall clock which connections are older than the loss.
    """
    context.invalidate_pool_on_disconnect = False


def _is_unavailable(error: Exception, driver: Any) -> bool:  # noqa: ANN401 - the driver's own connection
    """Return whether the database is unavailable or refuses to work. Mistakes in our statements are neither."""
    sqlstate: str = getattr(error, "sqlstate", None) or ""
    refused = sqlstate and not sqlstate.startswith(
        _OUR_MISTAKE_CLASSES
    )  # for example: a shutdown, no memory, no disk
    return bool(refused or driver.is_closed() or isinstance(error, OSError))


def _translated(error: Exception) -> Exception:
    """Translate the errors of an unavailable database into one, and return mistakes in our statements unchanged."""
    if isinstance(error, IntegrityError):
        return ConstraintViolated(str(error.orig))
    if isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) == _ILLEGAL_TRANSITION:
        return IllegalTransition(str(error.orig and error.orig.__cause__))
    away = isinstance(error, (DBAPIError, PoolTimeout, OSError)) and not isinstance(error, _OUR_MISTAKE)
    if away or cut_between(error):
        return _unavailable(str(getattr(error, "orig", None) or error) or type(error).__name__)
    return error


def _unavailable(reason: str) -> BackendUnavailable:
    return BackendUnavailable(
        f"the control plane's database does not answer: {reason}", retry_after_seconds=1.0
    )
