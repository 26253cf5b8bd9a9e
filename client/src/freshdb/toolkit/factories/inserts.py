"""Rows in PostgreSQL's text format, and COPY with the driver of the connection."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date, time, timedelta
from enum import Enum
from io import StringIO
from typing import Any, Final

from sqlalchemy import Connection, Table
from sqlalchemy.util import await_only

from freshdb.toolkit.errors import ToolkitError, WrongTarget

Row = dict[str, Any]
"""A row, by the names of its columns."""

_DRIVERS: Final = ("asyncpg", "psycopg", "psycopg2")
_ESCAPES: Final = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


class RowsRefused(ToolkitError):
    """PostgreSQL rejected rows, because a given value violates a constraint of the table."""


def as_text(value: object, kind: str) -> str | None:
    """Format a value as PostgreSQL's text, for a column of the type `kind`."""
    match value:
        case None | str():
            return json.dumps(value) if kind.startswith("json") and value is not None else value
        case bool():
            return "t" if value else "f"
        case _ if kind.startswith("json"):
            return json.dumps(value)
        case bytes():
            return f"\\x{value.hex()}"
        case date() | time():
            return value.isoformat()
        case timedelta():
            return f"{value.total_seconds():.6f} seconds"  # without an exponent, which PostgreSQL does not accept
        case list() | tuple():
            return "{" + ",".join(_item(as_text(one, kind.removesuffix("[]"))) for one in value) + "}"
        case Enum():
            return str(value.value)
        case _:
            return str(value)


def copy_rows(connection: Connection, table: Table, columns: Mapping[str, str], rows: Sequence[Row]) -> None:
    """Insert all rows by one COPY.

    Args:
        connection: connection with a transaction.
        table: table of the rows.
        columns: names and types of the columns to insert.
        rows: rows with at least these columns.

    Raises:
        WrongTarget: COPY is not supported for the driver of the connection.
        RowsRefused: PostgreSQL rejected the rows.
    """
    driver = connection.dialect.driver
    if driver not in _DRIVERS:
        raise WrongTarget(f"factories insert by COPY, with {' or '.join(_DRIVERS)}, not {driver}")
    data = "".join(
        "\t".join(_field(as_text(row[name], kind)) for name, kind in columns.items()) + "\n" for row in rows
    )
    try:
        _copy(connection, table, list(columns), data)
    except Exception as refused:
        raise RowsRefused(f"{table.key}: {refused}") from refused


def _copy(connection: Connection, table: Table, columns: list[str], data: str) -> None:
    quote = connection.dialect.identifier_preparer
    names = ", ".join(quote.quote_identifier(name) for name in columns)
    statement = f"COPY {quote.format_table(table)} ({names}) FROM STDIN"
    raw: Any = connection.connection.driver_connection
    match connection.dialect.driver, connection.dialect.is_async:
        case "psycopg", True:
            await_only(_copy_async(raw, statement, data))
        case "psycopg", False:
            with raw.cursor() as cursor, cursor.copy(statement) as copy:
                copy.write(data)
        case "psycopg2", _:
            with raw.cursor() as cursor:
                cursor.copy_expert(statement, StringIO(data))
        case _:
            source = _Source(data.encode())
            await_only(
                raw.copy_to_table(table.name, schema_name=table.schema, columns=columns, source=source)
            )


class _Source:
    """An asynchronous source of data for asyncpg."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def __aiter__(self) -> Any:  # noqa: ANN401 - an asynchronous generator
        yield self._data


async def _copy_async(raw: Any, statement: str, data: str) -> None:  # noqa: ANN401 - psycopg.AsyncConnection
    async with raw.cursor() as cursor, cursor.copy(statement) as copy:
        await copy.write(data)


def _field(value: str | None) -> str:
    return "\\N" if value is None else value.translate(_ESCAPES)


def _item(value: str | None) -> str:
    return "NULL" if value is None else '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
