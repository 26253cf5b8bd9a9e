"""Operations on a database: one function for blocking and for async targets.

An operation is a function that takes a SQLAlchemy ``Connection``. An async target runs the same function by SQLAlchemy's
``run_sync``, so that no operation is written twice. An operation is atomic:

=====================  ================================================================================================
target                 transaction
=====================  ================================================================================================
engine, DSN            its own, committed at the end
connection without one its own, committed at the end
connection inside one  a savepoint in the caller's transaction, which the caller ends
=====================  ================================================================================================

A DSN is ``postgresql://…`` (psycopg, or asyncpg for async calls), ``sqlite:///…``, or a SQLAlchemy URL with its driver.
Each use of a DSN opens a connection and closes it. Pass an engine or a connection where speed matters.
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
except ModuleNotFoundError as missing:  # pragma: no cover - the tests install it
    raise ModuleNotFoundError(
        "this module of freshdb.toolkit needs SQLAlchemy: pip install 'freshdb[toolkit]'", name=missing.name
    ) from missing

P = ParamSpec("P")
T = TypeVar("T")

Target: TypeAlias = Engine | Connection | URL | str
"""The targets of blocking calls."""

AsyncTarget: TypeAlias = AsyncEngine | AsyncConnection | URL | str
"""The targets of async calls."""

_DRIVERS: Final = {
    "postgresql": ("postgresql+psycopg", "postgresql+asyncpg"),
    "postgres": ("postgresql+psycopg", "postgresql+asyncpg"),
    "sqlite": ("sqlite+pysqlite", "sqlite+aiosqlite"),
}
"""The blocking and the async driver for a DSN that names no driver."""


def engine_of(target: Engine | URL | str, *, pool_size: int = 0) -> Engine:
    """Return an engine for a DSN, with a pool of at most `pool_size` connections or none. An engine is returned as it is.

    Raises:
        WrongTarget: the target is neither, or its driver is async.
    """
    if isinstance(target, Engine):
        return target
    url = _url(target, "an Engine, a Connection or a DSN", blocking=True)
    if url.get_dialect().is_async:
        raise WrongTarget(f"{url.drivername} is an async driver: name another driver, or use the async call")
    return create_engine(url, **_pool(pool_size))


def async_engine_of(target: AsyncEngine | URL | str, *, pool_size: int = 0) -> AsyncEngine:
    """Return an async engine, as `engine_of` does for blocking calls.

    Raises:
        WrongTarget: the target is neither, or its driver is blocking.
    """
    if isinstance(target, AsyncEngine):
        return target
    url = _url(target, "an AsyncEngine, an AsyncConnection or a DSN", blocking=False)
    try:
        return create_async_engine(url, **_pool(pool_size))
    except InvalidRequestError as error:
        raise WrongTarget(
            f"{url.drivername} is a blocking driver: name another driver, or use the blocking call"
        ) from error


def check_can_roll_back(connection: Connection) -> None:
    """Check that a connection uses transactions.

    Raises:
        WrongTarget: the connection commits every statement.
    """
    if getattr(connection.connection.dbapi_connection, "autocommit", False) is True:
        raise WrongTarget(
            "the connection commits every statement: use another isolation level than AUTOCOMMIT"
        )


def run(target: Target, operation: Callable[[Connection], T]) -> T:
    """Run an operation on a blocking target.

    Raises:
        WrongTarget: this is not a target, or it is async.
    """
    if isinstance(target, Connection):
        with target.begin_nested() if target.in_transaction() else target.begin():
            return operation(target)
    with engine_of(target).begin() as connection:
        return operation(connection)


async def run_async(target: AsyncTarget, operation: Callable[[Connection], T]) -> T:
    """Run an operation on an async target.

    Raises:
        WrongTarget: this is not a target, or it is blocking.
    """
    if isinstance(target, AsyncConnection):
        async with target.begin_nested() if target.in_transaction() else target.begin():
            return await target.run_sync(operation)
    async with async_engine_of(target).begin() as connection:
        return await connection.run_sync(operation)


def _pool(size: int) -> dict[str, Any]:
    return {"pool_size": size, "max_overflow": 0} if size else {"poolclass": NullPool}


def _url(target: object, expected: str, *, blocking: bool) -> URL:
    if not isinstance(target, URL | str):
        raise WrongTarget(f"expected {expected}, not {type(target).__module__}.{type(target).__name__}")
    try:
        url = make_url(target)
    except (ArgumentError, ValueError):
        raise WrongTarget(
            "this is not a DSN: use postgresql://user:password@host/database or sqlite:///file"
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
