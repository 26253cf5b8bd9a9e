"""The connections that this package works on, as protocols. asyncpg's connections satisfy them.

Over other drivers an adapter does: ``Reader`` is all that reading needs.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final, Literal, Protocol

FORMATS: Final = {
    "datestyle": "ISO, MDY",
    "intervalstyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "timezone": "UTC",
    "lc_monetary": "C",
}
"""Settings of every session that writes values as text, or reads such text: the text is the same in all of them."""


@dataclass(frozen=True, slots=True)
class Rights:
    """What the server and the role of a connection that cleans allow.

    Attributes:
        version: version of the server (``server_version_num``).
        superuser: true if the role is a superuser. Then the session's writes are not counted (``track_counts`` is off).
        as_replica: true if the session has ``session_replication_role = replica``, and so fires few triggers and checks no
            foreign keys.
    """

    version: int
    superuser: bool
    as_replica: bool


class Reader(Protocol):
    """A connection that answers queries with asyncpg's parameters (``$1``, ``$2``, …)."""

    async def fetch(self, query: str, *args: Any) -> list[Any]:  # noqa: ANN401 - asyncpg's own signature
        """Return all rows."""

    async def fetchval(self, query: str, *args: Any) -> Any:  # noqa: ANN401 - as above
        """Return the first value of the first row."""


class Connection(Reader, Protocol):
    """A connection that can also run scripts and copy rows."""

    async def fetchrow(self, query: str, *args: Any) -> Any:  # noqa: ANN401 - asyncpg's own signature
        """Return the first row, or ``None``."""

    async def execute(self, query: str, *args: Any) -> str:  # noqa: ANN401 - as above
        """Run one statement, or a script of several without parameters. A script is one transaction."""

    def transaction(self) -> AbstractAsyncContextManager[Any]:
        """Return a transaction for one block."""

    async def copy_from_query(self, query: str, *, output: BytesIO, format: Literal["text"]) -> str:  # noqa: A002 - as above
        """Write the rows of a query, in the text format of ``COPY``, to ``output``."""

    async def copy_to_table(
        self,
        table_name: str,
        *,
        source: BytesIO,
        columns: Iterable[str],
        schema_name: str | None,
        format: Literal["text"],  # noqa: A002 - as above
        freeze: bool,
    ) -> str:
        """Load rows in the text format of ``COPY`` into a table, and mark them as old if it was truncated just before."""
