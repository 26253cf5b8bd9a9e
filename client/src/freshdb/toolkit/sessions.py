"""SQLAlchemy sessions whose changes are rolled back after the test, even if the code under test commits them.

::

    with TestSessionFactory(engine, test="test_order") as factory:
        factory.session_maker              # for the application
        with factory.session_maker() as session:
            session.add(Order())
            session.commit()

One outer transaction is always rolled back. The transaction of a session is a savepoint in it (SQLAlchemy's
``join_transaction_mode="create_savepoint"``): a commit releases the savepoint, and a rollback returns to it, also after an
error. All sessions of a factory share one connection to the database, and see the flushed changes of the others.

Tests of concurrent transactions need two connections. Use a lease or ``cleanup`` for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from sqlalchemy import URL, Connection, Engine, event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

from freshdb.toolkit.engines import AsyncTarget, Target, async_engine_of, engine_of
from freshdb.toolkit.errors import SessionEnded, WrongEventLoop
from freshdb.toolkit.savepoints import INFO_KEY, OuterTransaction, session_class

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ConnectionPoolEntry

_NAME_BYTES: Final = 63


@dataclass(frozen=True, slots=True, kw_only=True)
class TestSettings:
    """PostgreSQL's timeouts for tests, so that a test fails instead of hanging. 0 means no limit.

    Attributes:
        statement_timeout_seconds: maximum duration of a statement.
        lock_timeout_seconds: maximum wait for a lock.
        idle_timeout_seconds: maximum idle time within a transaction.
        pool_size: maximum number of connections of an engine, which it keeps for reuse. With 0, the number is not limited,
            and each connection is closed after use. An ``AsyncEngine`` for several event loops needs 0.

    Raises:
        ValueError: a value is negative. The message names it.
    """

    __test__ = False

    statement_timeout_seconds: float = 60.0
    lock_timeout_seconds: float = 30.0
    idle_timeout_seconds: float = 600.0
    pool_size: int = 0

    def __post_init__(self) -> None:
        for one in fields(self):
            if getattr(self, one.name) < 0:
                raise ValueError(f"{one.name} cannot be {getattr(self, one.name)}: use 0 for no limit")

    def engine(self, dsn: URL | str, *, test: str = "") -> Engine:
        """Create an engine for code that opens its own connections. All of them have these settings.

        Raises:
            WrongTarget: this is not a DSN, or its driver is async.
        """
        return self._with_settings(engine_of(dsn, pool_size=self.pool_size), test)

    def async_engine(self, dsn: URL | str, *, test: str = "") -> AsyncEngine:
        """Create an async engine. A pooled connection raises ``WrongEventLoop`` in another loop than its own.

        Raises:
            WrongTarget: this is not a DSN, or its driver is blocking.
        """
        engine = async_engine_of(dsn, pool_size=self.pool_size)
        event.listen(engine.sync_engine, "connect", _record_loop)
        event.listen(engine.sync_engine, "checkout", _check_loop)
        self._with_settings(engine.sync_engine, test)
        return engine

    def _with_settings(self, engine: Engine, test: str) -> Engine:
        @event.listens_for(engine, "connect")
        def set_up(connection: DBAPIConnection, _: object) -> None:
            if engine.dialect.name == "postgresql":
                cursor = connection.cursor()
                for name, value in self.values(test).items():
                    cursor.execute(f"SET {name} = '{value.replace(chr(39), chr(39) * 2)}'")
                connection.commit()

        return engine

    def values(self, test: str) -> dict[str, str]:
        """Return PostgreSQL's settings. ``application_name`` is the end of the test's id, cut to the maximum length."""
        name = test.encode("ascii", "replace").decode()[-_NAME_BYTES:]
        return {
            "statement_timeout": f"{self.statement_timeout_seconds * 1000:.0f}",
            "lock_timeout": f"{self.lock_timeout_seconds * 1000:.0f}",
            "idle_in_transaction_session_timeout": f"{self.idle_timeout_seconds * 1000:.0f}",
        } | ({"application_name": name} if name else {})


DEFAULT_SETTINGS: Final = TestSettings()


class TestSessionFactory:
    """Blocking sessions in a transaction that is rolled back at the end of the ``with`` block.

    Args:
        target: an ``Engine``, a ``Connection`` without a transaction, or a DSN.
        test: name of the test, for PostgreSQL's ``application_name`` and for errors.
        settings: timeouts of PostgreSQL.
        like: session maker of the application. The sessions have its class and its options.

    Raises:
        WrongTarget: the target is of another type, or commits every statement.
        InTransaction: the connection already has an open transaction.
    """

    __test__ = False

    def __init__(
        self,
        target: Target,
        *,
        test: str = "",
        settings: TestSettings = DEFAULT_SETTINGS,
        like: sessionmaker[Any] | None = None,
    ) -> None:
        self._target, self._test, self._settings = target, test, settings
        self._like: sessionmaker[Session] = like or sessionmaker()
        self._stack = ExitStack()
        self._transaction: OuterTransaction | None = None

    @property
    def session_maker(self) -> sessionmaker[Session]:
        """A session maker that can replace the application's own.

        Raises:
            SessionEnded: the ``with`` block has ended or has not begun.
        """
        return sessionmaker(
            class_=session_class(self._like.class_), **_options(self._like.kw, self._transaction)
        )

    @property
    def connection(self) -> Connection:
        """A new connection object in the transaction, for code without a session.

        Raises:
            SessionEnded: the ``with`` block has ended or has not begun.
        """
        return _open_transaction(self._transaction).new_connection()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            target = self._target
            outer = (
                target if isinstance(target, Connection) else stack.enter_context(engine_of(target).connect())
            )
            self._transaction = OuterTransaction(outer, self._test, self._settings.values(self._test))
            stack.enter_context(self._transaction.begin())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextmanager
    def nested(self) -> Iterator[Self]:
        """Roll back the changes of the block, and no earlier ones. Blocks can be nested."""
        with _open_transaction(self._transaction).nested():
            yield self


class AsyncTestSessionFactory:
    """Async sessions in a transaction that is rolled back at the end of the ``async with`` block, for one event loop.

    Args:
        target: an ``AsyncEngine``, an ``AsyncConnection`` without a transaction, or a DSN.
        test: name of the test, for PostgreSQL's ``application_name`` and for errors.
        settings: timeouts of PostgreSQL.
        like: session maker of the application. The sessions have its classes and its options.

    Raises:
        WrongTarget: the target is of another type, or commits every statement.
        InTransaction: the connection already has an open transaction.
    """

    def __init__(
        self,
        target: AsyncTarget,
        *,
        test: str = "",
        settings: TestSettings = DEFAULT_SETTINGS,
        like: async_sessionmaker[Any] | None = None,
    ) -> None:
        self._target, self._test, self._settings = target, test, settings
        self._like: async_sessionmaker[AsyncSession] = like or async_sessionmaker()
        self._stack = AsyncExitStack()
        self._transaction: OuterTransaction | None = None

    @property
    def session_maker(self) -> async_sessionmaker[AsyncSession]:
        """A session maker that can replace the application's own.

        Raises:
            SessionEnded: the ``async with`` block has ended or has not begun.
        """
        options = _options(self._like.kw, self._transaction)
        inner = options.pop("sync_session_class", None) or self._like.class_.sync_session_class
        return async_sessionmaker(
            class_=self._like.class_, sync_session_class=session_class(inner), **options
        )

    @property
    def connection(self) -> AsyncConnection:
        """A new connection object in the transaction, for code without a session.

        Raises:
            SessionEnded: the ``async with`` block has ended or has not begun.
        """
        transaction = _open_transaction(self._transaction)
        return AsyncConnection(AsyncEngine(transaction.outer.engine), transaction.new_connection())

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            outer = self._target
            if not isinstance(outer, AsyncConnection):
                outer = await stack.enter_async_context(async_engine_of(outer).connect())
            sync = await outer.run_sync(lambda connection: connection)
            transaction = OuterTransaction(
                sync, self._test, self._settings.values(self._test), asyncio.get_running_loop()
            )
            await stack.enter_async_context(_run_block(outer, transaction.begin()))
            self._transaction, self._stack = transaction, stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @asynccontextmanager
    async def nested(self) -> AsyncIterator[Self]:
        """Roll back the changes of the block, and no earlier ones. Blocks can be nested."""
        async with _run_block(self.connection, _open_transaction(self._transaction).nested()):
            yield self


class Application(Protocol):
    """The attributes of a FastAPI or Starlette application that `as_before` restores."""

    dependency_overrides: dict[Callable[..., Any], Callable[..., Any]]
    user_middleware: list[Any]
    middleware_stack: Any


@contextmanager
def as_before(app: Application) -> Iterator[None]:
    """Restore the dependency overrides and the middleware of a FastAPI application after the block.

    ::

        with as_before(app):
            app.dependency_overrides[get_session] = …
    """
    overrides, middleware, stack = (
        dict(app.dependency_overrides),
        list(app.user_middleware),
        app.middleware_stack,
    )
    app.middleware_stack = None  # built again at the next request: middleware can be added only before that
    try:
        yield
    finally:
        app.dependency_overrides.clear()
        app.dependency_overrides.update(overrides)
        app.user_middleware[:] = middleware
        app.middleware_stack = stack


def _open_transaction(transaction: OuterTransaction | None) -> OuterTransaction:
    if transaction is None or transaction.ended:
        raise SessionEnded("sessions exist only within the block: with TestSessionFactory(…) as factory: …")
    return transaction


def _options(given: dict[str, Any], transaction: OuterTransaction | None) -> dict[str, Any]:
    left = {name: value for name, value in given.items() if name not in {"bind", "binds", "twophase"}}
    info = {**(given.get("info") or {}), INFO_KEY: _open_transaction(transaction)}
    return {**left, "info": info, "join_transaction_mode": "create_savepoint"}


@asynccontextmanager
async def _run_block(connection: AsyncConnection, block: AbstractContextManager[None]) -> AsyncIterator[None]:
    """Run a blocking context manager as SQLAlchemy runs blocking code on async drivers."""
    await connection.run_sync(lambda _: block.__enter__())
    try:
        yield
    finally:
        await connection.run_sync(lambda _: block.__exit__(None, None, None))


def _record_loop(_: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
    entry.info["loop"] = asyncio.get_running_loop()


def _check_loop(_: DBAPIConnection, entry: ConnectionPoolEntry, __: object) -> None:
    if entry.info["loop"] is not asyncio.get_running_loop():
        raise WrongEventLoop(
            "this pooled connection was opened in another event loop: let fixtures and tests share a loop (loop_scope), "
            "or use no pool (pool_size=0)"
        )
