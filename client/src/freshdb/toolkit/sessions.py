"""SQLAlchemy sessions whose every change is undone when the test ends, whatever the code under test commits.

::

    with TestSessionFactory(engine, test="test_order") as factory:
        factory.session_maker              # for the application
        with factory.session_maker() as session:
            session.add(Order())
            session.commit()

There is one outer transaction, which is always rolled back. A session's transaction is a savepoint in it (SQLAlchemy's
``join_transaction_mode="create_savepoint"``): a commit releases it, a rollback goes back to it, also after an error. All
sessions of a factory share one connection to the database, and see what the others have flushed.

What two transactions do to each other takes two connections: a
lease for the test, or ``cleanup``.
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
from freshdb.toolkit.savepoints import SCOPE, OuterTransaction, joining

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ConnectionPoolEntry

_NAME_BYTES: Final = 63


@dataclass(frozen=True, slots=True, kw_only=True)
class TestSettings:
    """What PostgreSQL ends by itself, so that a test fails instead of hanging. 0 is no limit.

    Attributes:
        statement_timeout_seconds: longest statement.
        lock_timeout_seconds: longest wait for a lock.
        idle_timeout_seconds: longest pause within a transaction.
        pool_size: so many connections an engine may have open, and keeps for its next use; 0 for any number, each closed
            after its use. For ``AsyncEngine`` that means: one event loop, or 0.

    Raises:
        ValueError: one of them is negative; names it.
    """

    __test__ = False

    statement_timeout_seconds: float = 60.0
    lock_timeout_seconds: float = 30.0
    idle_timeout_seconds: float = 600.0
    pool_size: int = 0

    def __post_init__(self) -> None:
        for one in fields(self):
            if getattr(self, one.name) < 0:
                raise ValueError(f"{one.name} cannot be {getattr(self, one.name)}: 0 is for no limit")

    def engine(self, dsn: URL | str, *, test: str = "") -> Engine:
        """Make an engine for code that opens its own connections: all of them have these settings.

        Raises:
            WrongTarget: it is no DSN, or its driver is to be awaited.
        """
        return self._prepared(engine_of(dsn, pool_size=self.pool_size), test)

    def async_engine(self, dsn: URL | str, *, test: str = "") -> AsyncEngine:
        """Do the same for code that awaits. A connection from its pool raises ``WrongEventLoop`` in any other loop.

        Raises:
            WrongTarget: it is no DSN, or its driver blocks.
        """
        engine = async_engine_of(dsn, pool_size=self.pool_size)
        event.listen(engine.sync_engine, "connect", _note_loop)
        event.listen(engine.sync_engine, "checkout", _check_loop)
        self._prepared(engine.sync_engine, test)
        return engine

    def _prepared(self, engine: Engine, test: str) -> Engine:
        @event.listens_for(engine, "connect")
        def set_up(connection: DBAPIConnection, _: object) -> None:
            if engine.dialect.name == "postgresql":
                cursor = connection.cursor()
                for name, value in self.values(test).items():
                    cursor.execute(f"SET {name} = '{value.replace(chr(39), chr(39) * 2)}'")
                connection.commit()

        return engine

    def values(self, test: str) -> dict[str, str]:
        """PostgreSQL's own settings. ``application_name`` is the end of the test's id, as much as fits."""
        name = test.encode("ascii", "replace").decode()[-_NAME_BYTES:]
        return {
            "statement_timeout": f"{self.statement_timeout_seconds * 1000:.0f}",
            "lock_timeout": f"{self.lock_timeout_seconds * 1000:.0f}",
            "idle_in_transaction_session_timeout": f"{self.idle_timeout_seconds * 1000:.0f}",
        } | ({"application_name": name} if name else {})


DEFAULT_SETTINGS: Final = TestSettings()


class TestSessionFactory:
    """Blocking sessions inside a transaction that is rolled back when the ``with`` block ends.

    Args:
        target: an ``Engine``, a ``Connection`` without a transaction, or a DSN.
        test: which test it is for, for PostgreSQL's ``application_name`` and for errors.
        settings: what PostgreSQL ends by itself.
        like: the application's own maker; sessions are of its class, and have its options.

    Raises:
        WrongTarget: the target is none of these, or commits by itself.
        InTransaction: the connection has a transaction open already.
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
        self._scope: OuterTransaction | None = None

    @property
    def session_maker(self) -> sessionmaker[Session]:
        """A maker of sessions, which an application can have in its own one's place.

        Raises:
            SessionEnded: the ``with`` block is over, or has not begun.
        """
        return sessionmaker(class_=joining(self._like.class_), **_options(self._like.kw, self._scope))

    @property
    def connection(self) -> Connection:
        """A connection inside the transaction, for what is no session's; each time another object.

        Raises:
            SessionEnded: the ``with`` block is over, or has not begun.
        """
        return _open(self._scope).another()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            target = self._target
            outer = (
                target if isinstance(target, Connection) else stack.enter_context(engine_of(target).connect())
            )
            self._scope = OuterTransaction(outer, self._test, self._settings.values(self._test))
            stack.enter_context(self._scope.transaction())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextmanager
    def nested(self) -> Iterator[Self]:
        """Undo at its end what the block does, and nothing before; blocks can be nested."""
        with _open(self._scope).nested():
            yield self


class AsyncTestSessionFactory:
    """The same, awaited, with ``async with``; for one event loop.

    Args:
        target: an ``AsyncEngine``, an ``AsyncConnection`` without a transaction, or a DSN.
        test: which test it is for, for PostgreSQL's ``application_name`` and for errors.
        settings: what PostgreSQL ends by itself.
        like: the application's own maker; sessions are of its classes, and have its options.

    Raises:
        WrongTarget: the target is none of these, or commits by itself.
        InTransaction: the connection has a transaction open already.
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
        self._scope: OuterTransaction | None = None

    @property
    def session_maker(self) -> async_sessionmaker[AsyncSession]:
        """A maker of sessions, which an application can have in its own one's place.

        Raises:
            SessionEnded: the ``async with`` block is over, or has not begun.
        """
        options = _options(self._like.kw, self._scope)
        inner = options.pop("sync_session_class", None) or self._like.class_.sync_session_class
        return async_sessionmaker(class_=self._like.class_, sync_session_class=joining(inner), **options)

    @property
    def connection(self) -> AsyncConnection:
        """A connection inside the transaction, for what is no session's; each time another object.

        Raises:
            SessionEnded: the ``async with`` block is over, or has not begun.
        """
        scope = _open(self._scope)
        return AsyncConnection(AsyncEngine(scope.outer.engine), scope.another())

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            outer = self._target
            if not isinstance(outer, AsyncConnection):
                outer = await stack.enter_async_context(async_engine_of(outer).connect())
            sync = await outer.run_sync(lambda connection: connection)
            scope = OuterTransaction(
                sync, self._test, self._settings.values(self._test), asyncio.get_running_loop()
            )
            await stack.enter_async_context(_awaited(outer, scope.transaction()))
            self._scope, self._stack = scope, stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @asynccontextmanager
    async def nested(self) -> AsyncIterator[Self]:
        """Undo at its end what the block does, and nothing before; blocks can be nested."""
        async with _awaited(self.connection, _open(self._scope).nested()):
            yield self


class Application(Protocol):
    """As much as is needed of a FastAPI or Starlette application."""

    dependency_overrides: dict[Callable[..., Any], Callable[..., Any]]
    user_middleware: list[Any]
    middleware_stack: Any


@contextmanager
def as_before(app: Application) -> Iterator[None]:
    """Leave a FastAPI application as it was before the block: its dependency overrides, and its middleware.

    ::

        with as_before(app):
            app.dependency_overrides[get_session] = …
    """
    overrides, middleware, stack = (
        dict(app.dependency_overrides),
        list(app.user_middleware),
        app.middleware_stack,
    )
    app.middleware_stack = None  # made anew at the next request, and only until then can middleware be added
    try:
        yield
    finally:
        app.dependency_overrides.clear()
        app.dependency_overrides.update(overrides)
        app.user_middleware[:] = middleware
        app.middleware_stack = stack


def _open(scope: OuterTransaction | None) -> OuterTransaction:
    if scope is None or scope.over:
        raise SessionEnded(
            "sessions are to be had within the block alone: with TestSessionFactory(…) as factory: …"
        )
    return scope


def _options(given: dict[str, Any], scope: OuterTransaction | None) -> dict[str, Any]:
    left = {name: value for name, value in given.items() if name not in {"bind", "binds", "twophase"}}
    info = {**(given.get("info") or {}), SCOPE: _open(scope)}
    return {**left, "info": info, "join_transaction_mode": "create_savepoint"}


@asynccontextmanager
async def _awaited(connection: AsyncConnection, block: AbstractContextManager[None]) -> AsyncIterator[None]:
    """Enter and leave what blocks, the way SQLAlchemy runs blocking code on async drivers."""
    await connection.run_sync(lambda _: block.__enter__())
    try:
        yield
    finally:
        await connection.run_sync(lambda _: block.__exit__(None, None, None))


def _note_loop(_: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
    entry.info["loop"] = asyncio.get_running_loop()


def _check_loop(_: DBAPIConnection, entry: ConnectionPoolEntry, __: object) -> None:
    if entry.info["loop"] is not asyncio.get_running_loop():
        raise WrongEventLoop(
            "this pool's connection was opened in another event loop: have fixtures and tests share one (loop_scope), "
            "or keep no connections (pool_size=0)"
        )
