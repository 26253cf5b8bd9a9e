"""Run a template's SQL as its builder, and locate an error in it.

Each element is one script, and is sent to PostgreSQL unchanged, in one message. So this module need not decide where a
statement ends. PostgreSQL usually reports the character at which it failed. It does not for an error during execution. Then
the element is run again, statement by statement, in a transaction that is rolled back, to find the statement that fails. The
result is used for the error message only.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Final

import asyncpg
import sqlparse

from freshdb_service.errors import TemplateFailed
from freshdb_service.postgres.server.connections import Connection, Login, execute_script
from freshdb_service.postgres.server.server import Server

_STATEMENT_LENGTH: Final = 2_000
_LOCATED_LENGTH: Final = 2_000_000
"""Maximum length of an element that is split into statements. Splitting a longer one would delay the message too much."""
_CHECK_SECONDS: Final = 2.0
"""Interval between checks whether a script waits for its client."""
_OF_PSQL: Final = re.compile(r"^\\|\bcopy\b[^;]*\bfrom\s+stdin\b", re.IGNORECASE | re.MULTILINE)
_COPY: Final = re.compile(r"\bcopy\b[^;]*\b(?:stdin|stdout)\b", re.IGNORECASE)
_PSQL_HINT: Final = (
    "psql's own commands (\\connect, \\restrict, …) and the data after COPY … FROM stdin are no SQL: remove them, or "
    "build the template with psql in a build of your own"
)
_WAITING: Final = """
SELECT query_start, state_change FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'ClientRead'
"""


class _WaitsForData(Exception):
    """PostgreSQL waits for the client in the middle of a script."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Place in an element.

    Attributes:
        start: offset of the statement in the element, from 0.
        at: offset in the statement, from 0.
        statement: text of the statement.
    """

    start: int
    at: int
    statement: str


async def run_sql(server: Server, build: Login, sql: Sequence[str], *, timeout_seconds: float) -> None:
    """Run scripts in order, in one session, as the builder.

    Raises:
        TemplateFailed: a script failed. ``extra`` has its index (``sql_index``), the ``statement``, its ``position`` (the
            first character of the element is 1) and ``line``, and PostgreSQL's ``sqlstate``, ``message`` and ``hint``.
        BackendUnavailable: the server is unavailable.
    """
    until = monotonic() + timeout_seconds
    for index, script in enumerate(sql):
        if "\0" in script:
            raise _failed(index, "a script holds a NUL character, which PostgreSQL does not accept", {})
    async with server.logged_in(build, settings={}, command_timeout_seconds=timeout_seconds) as connection:
        for index, script in enumerate(sql):
            try:
                await _run(server, connection, script, max(until - monotonic(), 0.001))
            except _WaitsForData as error:
                message = "COPY FROM stdin and COPY TO stdout need a client that sends, or receives, the data"
                raise _failed(index, message, _copy_facts(script)) from error
            except TimeoutError as error:
                message = f"the SQL took longer than {timeout_seconds:g} seconds"
                raise _failed(index, message, {"statement": script[:_STATEMENT_LENGTH]}) from error
            except (asyncpg.AdminShutdownError, asyncpg.PostgresConnectionError, OSError):
                await (
                    server.ping()
                )  # raises if the server is unavailable; otherwise the script ended its own session
                raise _failed(index, "the session was terminated while the SQL ran", {}) from None
            except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
                raise await _explain(
                    connection, index, script, error, max(until - monotonic(), 1.0)
                ) from error


async def _run(server: Server, connection: Connection, script: str, timeout_seconds: float) -> None:
    """Run one script.

    Raises:
        _WaitsForData: PostgreSQL waits for data, as COPY FROM stdin does. No client will send any.
    """
    running = asyncio.ensure_future(execute_script(connection, script, timeout_seconds=timeout_seconds))
    seen: tuple[object, ...] | None = None
    try:
        while True:
            done, _ = await asyncio.wait({running}, timeout=_CHECK_SECONDS)
            if done:
                return running.result()
            async with server.maintenance() as observer:
                row = await observer.fetchrow(_WAITING, connection.get_server_pid())
            if row is not None and tuple(row) == seen:
                raise _WaitsForData
            seen = None if row is None else tuple(row)
    finally:
        if not running.done():
            connection.terminate()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def _explain(
    connection: Connection, index: int, script: str, error: Exception, timeout_seconds: float
) -> TemplateFailed:
    place = _reported_place(script, error) or await _search_place(connection, script, error, timeout_seconds)
    facts: dict[str, object] = {
        "sqlstate": getattr(error, "sqlstate", None),
        "hint": getattr(error, "hint", None),
    }
    if place is not None:
        facts |= {
            "statement": place.statement[:_STATEMENT_LENGTH],
            "position": place.start + place.at + 1,
            "line": script.count("\n", 0, place.start + place.at) + 1,
        }
    detail = getattr(error, "detail", None)
    message = f"{error.args[0] if error.args else error}" + (f" ({detail})" if detail else "")
    if _OF_PSQL.search(script):
        facts["hint"] = facts["hint"] or _PSQL_HINT
    return _failed(index, message, facts)


def _reported_place(script: str, error: Exception) -> _Place | None:
    """Return the place that PostgreSQL reported, as the character in the whole message, from 1."""
    position = getattr(error, "position", None)
    if position is None:
        return None
    at = min(int(position) - 1, len(script))
    if len(script) > _LOCATED_LENGTH:
        return _Place(at, 0, script[at:])
    for start, statement in _statements(script):
        if start <= at < start + len(statement):
            return _Place(start, at - start, statement)
    return _Place(at, 0, script[at:])


async def _search_place(
    connection: Connection, script: str, error: Exception, timeout_seconds: float
) -> _Place | None:
    """Return the first statement that fails when the statements run one by one."""
    if len(script) > _LOCATED_LENGTH or connection.is_closed():
        return None
    statements = await asyncio.to_thread(_statements, script)
    transaction = connection.transaction()
    try:
        async with asyncio.timeout(timeout_seconds):
            await connection.execute("ROLLBACK")
            await transaction.start()
            for start, statement in statements:
                try:
                    await execute_script(connection, statement)
                except asyncpg.PostgresError as again:
                    same = getattr(again, "sqlstate", None) == getattr(error, "sqlstate", None)
                    return _Place(start, 0, statement) if same else None
    except (TimeoutError, asyncpg.InterfaceError, asyncpg.PostgresError, OSError):
        return None
    return None


def _statements(script: str) -> list[tuple[int, str]]:
    """Split a script into statements, as well as possible, each with its offset."""
    found: list[tuple[int, str]] = []
    cursor = 0
    for statement in sqlparse.split(script):
        start = script.find(statement, cursor)
        if start < 0:
            return found
        found.append((start, statement))
        cursor = start + len(statement)
    return found


def _copy_facts(script: str) -> dict[str, object]:
    facts: dict[str, object] = {"hint": _PSQL_HINT}
    for start, statement in _statements(script) if len(script) <= _LOCATED_LENGTH else []:
        if copy := _COPY.search(statement):
            at = start + copy.start()
            facts |= {
                "statement": statement[:_STATEMENT_LENGTH],
                "position": at + 1,
                "line": script.count("\n", 0, at) + 1,
            }
            break
    return facts


def _failed(index: int, message: str, facts: dict[str, object]) -> TemplateFailed:
    where = f", line {facts['line']}" if "line" in facts else ""
    said = {key: value for key, value in facts.items() if value is not None}
    return TemplateFailed(
        f"sql[{index}]{where}: {message}", extra={"sql_index": index, "message": message, **said}
    )
