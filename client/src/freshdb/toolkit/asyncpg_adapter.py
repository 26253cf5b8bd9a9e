"""The interface of an asyncpg connection over a SQLAlchemy connection, for the service's reset engine.

The reset engine reads with coroutines over asyncpg. On a blocking connection they never suspend, so ``run_coroutine`` can
run one to its end. With an async driver, all of this runs inside SQLAlchemy's ``run_sync``.
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
    """Executes statements with asyncpg's parameters (``$1``, ``$2``, …) by any PostgreSQL driver."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def fetch(self, query: str, *args: Any) -> list[Any]:  # noqa: ANN401 - asyncpg's own signature
        """Return all rows as mappings."""
        return list(self.execute(query, *args).mappings())

    async def fetchval(self, query: str, *args: Any) -> Any:  # noqa: ANN401 - asyncpg's own signature
        """Return the first value of the first row."""
        return self.execute(query, *args).scalar()

    def column(self, query: str) -> list[Any]:
        """Return the first value of every row."""
        return list(self.execute(query).scalars())

    def rows(self, query: str) -> list[Any]:
        """Return all rows."""
        return list(self.execute(query))

    def row(self, query: str) -> Any:  # noqa: ANN401 - its columns are the caller's
        """Return the only row."""
        return self.execute(query).one()

    def execute(self, statement: str, *args: object) -> CursorResult[Any]:
        """Execute a statement."""
        if not args:
            options = {"no_parameters": True}
            return self._connection.exec_driver_sql(statement, execution_options=options)
        if self._connection.dialect.paramstyle != "numeric_dollar":
            statement = _PARAMETER.sub(r"%(p\1)s", statement.replace("%", "%%"))
            return self._connection.exec_driver_sql(
                statement, {f"p{number}": value for number, value in enumerate(args, 1)}
            )
        return self._connection.exec_driver_sql(statement, args)


def run_coroutine(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends, and return its result."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    coroutine.close()
    raise RuntimeError("the coroutine awaits something else than its connection")
