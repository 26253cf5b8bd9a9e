"""Running a template's SQL as its builder, and saying where it failed.

Each element is one script: it goes to PostgreSQL as it is, in one message, so that nothing here decides where a statement
ends. PostgreSQL mostly says at which character it failed. Where it does not (an error while running, not while reading),
the element is run once more, statement by statement, in a transaction that is rolled back, to see which one fails; what
that finds goes into the message and nowhere else.
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
"""Longer elements are not taken apart: it would take longer than anybody wants to wait for a message."""
_LOOK_SECONDS: Final = 2.0
"""How often a long script's session is looked at."""
_OF_PSQL: Final = re.compile(r"^\\|\bcopy\b[^;]*\bfrom\s+stdin\b", re.IGNORECASE | re.MULTILINE)
_COPY: Final = re.compile(r"\bcopy\b[^;]*\b(?:stdin|stdout)\b", re.IGNORECASE)
_PSQL_HINT: Final = (
    "psql's own commands (\\connect, \\restrict, …) and the data after COPY … FROM stdin are no SQL: take them out, or "
    "build the template with psql in a build of your own"
)
_WAITING: Final = """
SELECT query_start, state_change FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'ClientRead'
"""


class _WaitsForData(Exception):
    """PostgreSQL waits for the client in the middle of a script."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in an element: ``start`` of the statement and ``at`` in it, both counted from 0."""

    start: int
    at: int
    statement: str


async def run_sql(server: Server, build: Login, sql: Sequence[str], *, timeout_seconds: float) -> None:
    """Run scripts in order, in one session, as the builder.

    Raises:
        TemplateFailed: one failed; ``extra`` says which (``sql_index``), the ``statement``, its ``position`` (the first
            character of the element is 1) and ``line``, and PostgreSQL's ``sqlstate``, ``message`` and ``hint``.
        BackendUnavailable: the server is away.
    """
    until = monotonic() + timeout_seconds
    for index, script in enumerate(sql):
        if "\0" in script:
            raise _failed(index, "a script holds a NUL character, which PostgreSQL cannot take", {})
    async with server.logged_in(build, settings={}, command_timeout_seconds=timeout_seconds) as connection:
        for index, script in enumerate(sql):
            try:
                await _run(server, connection, script, max(until - monotonic(), 0.001))
            except _WaitsForData as error:
                message = "COPY FROM stdin and COPY TO stdout need a client that gives, or takes, the data"
                raise _failed(index, message, _copy_facts(script)) from error
            except TimeoutError as error:
                message = f"the SQL took longer than {timeout_seconds:g} seconds"
                raise _failed(index, message, {"statement": script[:_STATEMENT_LENGTH]}) from error
            except (asyncpg.AdminShutdownError, asyncpg.PostgresConnectionError, OSError):
                await server.ping()  # away: that is what is said; there: the script ended its own session
                raise _failed(index, "the session was terminated while the SQL ran", {}) from None
            except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
                raise await _explained(
                    connection, index, script, error, max(until - monotonic(), 1.0)
                ) from error


async def _run(server: Server, connection: Connection, script: str, timeout_seconds: float) -> None:
    """Run one script; notice when PostgreSQL waits for data, as COPY FROM stdin does: nobody would ever send any."""
    running = asyncio.ensure_future(execute_script(connection, script, timeout_seconds=timeout_seconds))
    seen: tuple[object, ...] | None = None
    try:
        while True:
            done, _ = await asyncio.wait({running}, timeout=_LOOK_SECONDS)
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


async def _explained(
    connection: Connection, index: int, script: str, error: Exception, timeout_seconds: float
) -> TemplateFailed:
    place = _stated(script, error) or await _searched(connection, script, error, timeout_seconds)
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


def _stated(script: str, error: Exception) -> _Place | None:
    """The place that PostgreSQL gave: the character in the whole message, counted from 1."""
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


async def _searched(
    connection: Connection, script: str, error: Exception, timeout_seconds: float
) -> _Place | None:
    """The first statement that fails when the element is run one by one."""
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
    """Where statements probably begin, and what they are."""
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
