"""Quote names for SQL statements that are composed from text. No other module of this package quotes.

Values are passed as parameters, or PostgreSQL quotes them itself (``format('%I, %L', …)``) in the query that reads them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

_MAX_BYTES: Final = 63


def quoted(name: str) -> str:
    """Quote an identifier.

    Raises:
        ValueError: PostgreSQL accepts no such identifier (empty, longer than 63 bytes, or with a NUL).
    """
    if not name or "\0" in name or len(name.encode()) > _MAX_BYTES:
        raise ValueError(f"{name!r} is no identifier")
    return '"' + name.replace('"', '""') + '"'


def constant(name: str) -> str:
    """Quote a name as a text constant, for sessions with ``standard_conforming_strings`` on.

    Raises:
        ValueError: the name holds a NUL.
    """
    if "\0" in name:
        raise ValueError(f"{name!r} is no name")
    return "'" + name.replace("'", "''") + "'"


def array(numbers: Iterable[int]) -> str:
    """Write an array as PostgreSQL's text.

    asyncpg asks each new session for the definition of most array types before it can send or receive one. That takes
    longer than a whole reset.
    """
    return f"{{{','.join(map(str, numbers))}}}"
