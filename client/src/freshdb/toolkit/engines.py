"""How the toolkit reaches a database: one operation, written once, on a sync or an async target.

An operation is a function of a SQLAlchemy ``Connection``. An async target runs the same function by SQLAlchemy's own
``run_sync``, so that nothing is written twice. What an operation does is done as a whole or not at all:

=====================  ================================================================================================
target                 transaction
=====================  ================================================================================================
engine, DSN            one of its own, committed at the end
connection outside     one of its own, committed at the end
connection inside one  a savepoint of the caller's transaction, who ends it
=====================  ================================================================================================

A DSN is ``postgresql://…`` (psycopg, or asyncpg where one awaits), ``sqlite:///…``, or a SQLAlchemy URL that names its
driver. Each use of it opens a connection and closes it: where time counts, give an engine or a connection.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Concatenate, Final, Generic, ParamSpec, TypeAlias, TypeVar

from freshdb.methods import OperationMethod
from freshdb.toolkit.errors import WrongTarget

try:
    from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, make_url
    from sqlalchemy.exc import ArgumentError, InvalidRequestError
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
except ModuleNotFoundError as missing:  # pragma: no cover - the tests need it themselves
    raise ModuleNotFoundError(
        "this module of freshdb.toolkit needs SQLAlchemy: pip install 'freshdb[toolkit]'", name=missing.name
    ) from missing

P = ParamSpec("P")
T = TypeVar("T")

Target: TypeAlias = Engine | Connection | URL | str
"""What blocking calls take."""

AsyncTarget: TypeAlias = AsyncEngine | AsyncConnection | URL | str
"""What calls take that are awaited."""

_DRIVERS: Final = {
    "postgresql": ("postgresql+psycopg", "postgresql+asyncpg"),
    "postgres": ("postgresql+psycopg", "postgresql+asyncpg"),
    "sqlite": ("sqlite+pysqlite", "sqlite+aiosqlite"),
}
"""For a DSN that names no driver: the one that blocks, and the one that is awaited."""


def engine_of(target: Engine | URL | str, *, pool_size: int = 0) -> Engine:
    """Give an engine for a DSN, which opens a connection for each use unless it may keep some; an engine is its own.

    Raises:
        WrongTarget: it is neither, or its driver is to be awaited.
    """
    if isinstance(target, Engine):
        return target
    url = _url(target, "an Engine, a Connection or a DSN", blocking=True)
    if url.get_dialect().is_async:
        raise WrongTarget(f"{url.drivername} is to be awaited: name another driver, or use the call for that")
    return create_engine(url, **_pool(pool_size))


def async_engine_of(target: AsyncEngine | URL | str, *, pool_size: int = 0) -> AsyncEngine:
    """Do the same for calls that are awaited.

    Raises:
        WrongTarget: it is neither, or its driver blocks.
    """
    if isinstance(target, AsyncEngine):
        return target
    url = _url(target, "an AsyncEngine, an AsyncConnection or a DSN", blocking=False)
    try:
        return create_async_engine(url, **_pool(pool_size))
    except InvalidRequestError as error:
        raise WrongTarget(
            f"{url.drivername} cannot be awaited: name another driver, or use the call that blocks"
        ) from error


def see_that_it_can_be_undone(connection: Connection) -> None:
    """See that a connection has transactions.

    Raises:
        WrongTarget: every statement on it commits.
    """
    if getattr(connection.connection.dbapi_connection, "autocommit", False) is True:
        raise WrongTarget("the connection commits by itself (AUTOCOMMIT): nothing could be rolled back")


def run(target: Target, operation: Callable[[Connection], T]) -> T:
    """Carry an operation out, blocking.

    Raises:
        WrongTarget: the target is none, or must be awaited.
    """
    if isinstance(target, Connection):
        with target.begin_nested() if target.in_transaction() else target.begin():
            return operation(target)
    with engine_of(target).begin() as connection:
        return operation(connection)


async def run_async(target: AsyncTarget, operation: Callable[[Connection], T]) -> T:
    """Carry an operation out, awaiting.

    Raises:
        WrongTarget: the target is none, or cannot be awaited.
    """
    if isinstance(target, AsyncConnection):
        async with target.begin_nested() if target.in_transaction() else target.begin():
            return await target.run_sync(operation)
    async with async_engine_of(target).begin() as connection:
        return await connection.run_sync(operation)


def _pool(size: int) -> dict[str, Any]:
    return {"pool_size": size, "max_overflow": 0} if size else {"poolclass": NullPool}


def _url(target: object, wanted: str, *, blocking: bool) -> URL:
    if not isinstance(target, URL | str):
        raise WrongTarget(f"wanted {wanted}, not {type(target).__module__}.{type(target).__name__}")
    try:
        url = make_url(target)
    except (ArgumentError, ValueError):
        raise WrongTarget(
            "this is no DSN: wanted postgresql://user:password@host/database, or sqlite:///file"
        ) from None
    names = _DRIVERS.get(url.drivername)
    return url if names is None else url.set(drivername=names[0 if blocking else 1])


@contextmanager
def _believed_once_done(operations: object) -> Iterator[None]:
    """Have operations know what they knew before, if the block fails: also by a commit that is refused.

    Their attributes are put back, not what these contain.
    """
    before = dict(vars(operations))
    try:
        yield
    except BaseException:
        vars(operations).clear()
        vars(operations).update(before)
        raise


class Blocking(OperationMethod[P, T], Generic[P, T]):
    """An operation as a method that blocks, with its signature and docstring."""

    def __init__(self, operation: Callable[Concatenate[Any, Connection, P], T]) -> None:
        super().__init__(operation)

    def call(self, owner: Any, *args: P.args, **kwargs: P.kwargs) -> T:  # noqa: ANN401 - any class with operations
        """Run the operation on the owner's target."""
        with _believed_once_done(owner.operations):
            result: T = run(
                owner.target,
                lambda connection: self._operation(owner.operations, connection, *args, **kwargs),
            )
            return result


class Awaiting(OperationMethod[P, Awaitable[T]], Generic[P, T]):
    """An operation as a method that is awaited, with its signature and docstring."""

    def __init__(self, operation: Callable[Concatenate[Any, Connection, P], T]) -> None:
        super().__init__(operation)

    async def call(self, owner: Any, *args: P.args, **kwargs: P.kwargs) -> T:  # noqa: ANN401
        """Run the operation on the owner's target."""
        with _believed_once_done(owner.operations):
            return await run_async(
                owner.target,
                lambda connection: self._operation(owner.operations, connection, *args, **kwargs),
            )
