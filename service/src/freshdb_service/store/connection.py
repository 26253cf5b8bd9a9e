"""Connections to the control plane's database, and what their failures mean."""

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
"""The same, as classes of SQLSTATE."""


SETTINGS: Final = {
    "application_name": "freshdb control plane",
    "jit": "off",
    # What was answered has happened, also where a server's crash may cost its last transactions: a grant must not be undone.
    "synchronous_commit": "on",
    # What somebody set for our role, or for the database, is not meant for this.
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_session_timeout": "0",
    "default_transaction_read_only": "off",
    "default_transaction_isolation": "read committed",
    # A replica whose machine or network is gone says no goodbye: its sessions, and their locks, would stay.
    **KEEPALIVES,
    # Planning the grant anew takes longer than running it.
    "plan_cache_mode": "force_generic_plan",
}

Connection = AsyncConnection
"""What a statement runs on."""


class ConstraintViolated(Exception):
    """A statement would have broken a constraint of the control plane; nothing of it was done."""


class Store:
    """The control plane's database.

    ``statement()`` gives a connection on which every statement is a transaction of its own (one round trip);
    ``transaction()`` one for several statements, all or none.
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
                # Whoever has said nothing for so long in the middle of a transaction is not heard any more: its locks go.
                "idle_in_transaction_session_timeout": f"{round(answer_seconds * 1000)}ms"
            },
        }
        self.engine: AsyncEngine = create_async_engine(
            url,
            pool_size=pool_size,
            max_overflow=0,  # a connection that overflows is closed by whoever gives it back, which ``driver`` cannot
            pool_timeout=answer_seconds / 2,
            pool_use_lifo=True,  # the connection that was used last has the statements prepared
            connect_args=connect_arguments,
        )
        self._single = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self._apart = create_async_engine(url, poolclass=NullPool, connect_args=connect_arguments)
        self.patient: Final = create_async_engine(
            url, poolclass=NullPool, connect_args={**connect_arguments, "command_timeout": None}
        )
        """For what may take its time: migrations, and waiting for another replica's."""
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
        """A connection that is none of the pool's."""
        pooled = await self._apart.raw_connection()
        driver = pooled.driver_connection
        pooled.detach()
        return driver

    async def ping(self) -> None:
        """One round trip.

        Raises:
            BackendUnavailable: the database is away.
        """
        async with self.statement() as connection:
            await connection.execute(text("SELECT 1"))

    def statement(self) -> _Session:
        """A connection on which each statement commits by itself."""
        return _Session(self.liveness, self._single.connect(), self._instrument("statement"))

    def transaction(self) -> _Session:
        """A transaction: committed at the end, rolled back on any error."""
        return _Session(self.liveness, self.engine.begin(), self._instrument("transaction"))

    @asynccontextmanager
    async def driver(self, what: str = "driver") -> AsyncIterator[Any]:
        """The driver's own connection, each statement committing by itself; for where every microsecond counts.

        ``what`` it is for is one of a few words, which metrics and traces tell apart.
        """
        with self._instrument(what):
            self.liveness.check()
            try:
                pooled = await self.engine.raw_connection()
            except Exception as error:  # nothing was asked yet; some come as the driver's adapter raised them
                raise _away(str(error) or type(error).__name__) from error
            driver: Any = pooled.driver_connection
            try:
                yield driver
            except Exception as error:
                if getattr(error, "sqlstate", None) == _UNIQUE_VIOLATION:
                    raise ConstraintViolated(str(error)) from error
                if getattr(error, "sqlstate", None) == _ILLEGAL_TRANSITION:
                    raise IllegalTransition(str(error)) from error
                if _is_away(error, driver):
                    pooled.invalidate(error)
                    raise _away(str(error) or type(error).__name__) from error
                raise
            finally:
                pooled.close()

    @asynccontextmanager
    async def session(self, *, on_end: Callable[[], object]) -> AsyncIterator[Any]:
        """A driver's connection that belongs to the caller alone, and is none of the pool's; ended with the block.

        Args:
            on_end: called when the server ends it before.
        """
        self.liveness.check()
        try:
            driver = await self._opened_apart()
        except Exception as error:
            raise _away(str(error) or type(error).__name__) from error
        self.liveness.watch(driver)
        driver.add_termination_listener(lambda _: on_end())
        try:
            yield driver
        except Exception as error:
            if _is_away(error, driver):
                raise _away(str(error) or type(error).__name__) from error
            raise
        finally:
            driver.terminate()


class _Session:
    """One visit to the database; its failures come out as errors of ours."""

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
                # It may never answer again, and would let the next one wait for ever. SQLAlchemy does not know that.
                await self._connection.invalidate(error)
            await self._visit.__aexit__(kind, error, traceback)
        except Exception as failure:
            raise _translated(failure) from failure
        if isinstance(error, Exception) and (ours := _translated(error)) is not error:
            raise ours from error


def _checked(connection: Any, record: object, proxy: object) -> None:  # noqa: ANN401 - SQLAlchemy's adapter of the driver
    """Called by SQLAlchemy with a connection of the pool that is about to be used."""
    del record, proxy
    if connection.driver_connection.is_closed():
        raise DisconnectionError("the server has ended it")


def _one_alone(context: ExceptionContext) -> None:
    """Called by SQLAlchemy with an error: one lost connection says nothing of the others, which ``_checked`` looks at.

    The pool would take the wall clock's word for which of them are older than the loss.
    """
    context.invalidate_pool_on_disconnect = False


def _is_away(error: Exception, driver: Any) -> bool:  # noqa: ANN401 - the driver's own connection
    """Whether this means "the database is away, or refuses to work", and no mistake of ours."""
    sqlstate: str = getattr(error, "sqlstate", None) or ""
    refused = sqlstate and not sqlstate.startswith(_OUR_MISTAKE_CLASSES)  # a shutdown, no memory, no disk, …
    return bool(refused or driver.is_closed() or isinstance(error, OSError))


def _translated(error: Exception) -> Exception:
    """Turn "the database is away" into one error; leave mistakes of ours as they are."""
    if isinstance(error, IntegrityError):
        return ConstraintViolated(str(error.orig))
    if isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) == _ILLEGAL_TRANSITION:
        return IllegalTransition(str(error.orig and error.orig.__cause__))
    away = isinstance(error, (DBAPIError, PoolTimeout, OSError)) and not isinstance(error, _OUR_MISTAKE)
    if away or cut_between(error):
        return _away(str(getattr(error, "orig", None) or error) or type(error).__name__)
    return error


def _away(reason: str) -> BackendUnavailable:
    return BackendUnavailable(
        f"the control plane's database does not answer: {reason}", retry_after_seconds=1.0
    )
