"""A SQLAlchemy connection that answers as asyncpg's do, for the service's reset engine.

The engine's reading is written as coroutines over asyncpg. Over a connection that blocks they never wait, and ``at_once``
runs one to its end; with an async driver, all of it is inside SQLAlchemy's ``run_sync``.
"""

from __future__ import annotations

import re
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from sqlalchemy import Connection, CursorResult

T = TypeVar("T")

_PARAMETER: Final = re.compile(r"\$([0-9]+)")


class AsyncpgAdapter:
    """Statements with asyncpg's parameters (``$1``, ``$2``, …), on a connection of any driver for PostgreSQL."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def fetch(self, query: str, *args: Any) -> list[Any]:  # noqa: ANN401 - asyncpg's own signature
        """Give all rows."""
        return list(self.execute(query, *args).mappings())

    async def fetchval(self, query: str, *args: Any) -> Any:  # noqa: ANN401 - asyncpg's own signature
        """Give the first row's first value."""
        return self.execute(query, *args).scalar()

    def column(self, query: str) -> list[Any]:
        """Give the first value of every row."""
        return list(self.execute(query).scalars())

    def rows(self, query: str) -> list[Any]:
        """Give all rows."""
        return list(self.execute(query))

    def row(self, query: str) -> Any:  # noqa: ANN401 - its columns are the caller's
        """Give the only row."""
        return self.execute(query).one()

    def execute(self, statement: str, *args: object) -> CursorResult[Any]:
        """Carry a statement out."""
        if not args:
            options = {"no_parameters": True}
            return self._connection.exec_driver_sql(statement, execution_options=options)
        if self._connection.dialect.paramstyle != "numeric_dollar":
            statement = _PARAMETER.sub(r"%(p\1)s", statement.replace("%", "%%"))
            return self._connection.exec_driver_sql(
                statement, {f"p{number}": value for number, value in enumerate(args, 1)}
            )
        return self._connection.exec_driver_sql(statement, args)


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end that has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    coroutine.close()
    raise RuntimeError("it waits for something else than its connection")
