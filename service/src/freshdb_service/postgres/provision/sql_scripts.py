"""Run a template's SQL as its builder, as ``psql -f`` would, and locate an error in it.

Each element is one script with a session of its own. A script is split into statements (``sql_statements``), because some
cannot run together in one message: ``CREATE INDEX CONCURRENTLY``, or ``ALTER TYPE … ADD VALUE`` and the use of the value.
PostgreSQL usually reports the character at which a statement failed, and for data the line.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final

import asyncpg

from freshdb_service.errors import TemplateFailed
from freshdb_service.postgres.provision.sql_statements import NoStatement, Statement, split
from freshdb_service.postgres.server.connections import Connection, Login, copy_in, copy_out, execute_script
from freshdb_service.postgres.server.server import Server

_STATEMENT_LENGTH: Final = 2_000
_SETTINGS: Final = {"synchronous_commit": "off"}
"""A script may have a hundred thousand statements. The transaction that seals the template flushes them all."""
_OWNER_HINT: Final = "dump without owners and privileges: pg_dump --no-owner --no-acl"
_EXTENSION_HINT: Final = "name it in extensions, and the service installs it before the build"
_COMMIT_HINT: Final = "add COMMIT to the script, or remove BEGIN"
_CREATES_EXTENSION: Final = re.compile(r"\bcreate\s+extension\b", re.IGNORECASE)
_OF_OTHER_ROLES: Final = re.compile(r"\bowner\s+to\b|^(?:grant|revoke)\b|\bfor\s+role\b", re.IGNORECASE)
_ROLE_ERRORS: Final = (asyncpg.UndefinedObjectError, asyncpg.InsufficientPrivilegeError)
_HARMLESS: Final = (
    # pg_dump 17 and newer writes this for every server, and older servers do not know the setting.
    (asyncpg.UndefinedObjectError, re.compile(r"SET transaction_timeout = 0;")),
    # PostgreSQL's minor releases of November 2026 store this number for columns. Their own pg_dump leaves it out, but an
    # older pg_dump writes it, and older servers refuse it.
    (
        asyncpg.InvalidParameterValueError,
        re.compile(r"ALTER TABLE ONLY .+ ALTER COLUMN .+ SET \(pg_attver=\d+\);"),
    ),
    # The service has installed the extension, and only the owner may repeat its comment.
    (asyncpg.InsufficientPrivilegeError, re.compile(r"COMMENT ON EXTENSION \S+ IS .*;", re.DOTALL)),
)
"""Statements of a dump whose failure changes nothing."""
_DATA_LINE: Final = re.compile(r"^COPY .*?, line (\d+)", re.MULTILINE)


def has_statements(sql: Sequence[str]) -> bool:
    """Return true if a script has a statement, not only comments. The scripts must be valid."""
    return any(next(split(script), None) is not None for script in sql)


async def run_sql(
    server: Server,
    build: Login,
    sql: Sequence[str],
    *,
    timeout_seconds: float,
    on_message: Callable[[str], None] = lambda _: None,
) -> None:
    """Run scripts in order, each in a new session, as the builder.

    Args:
        server: where the build's database is.
        build: its login.
        sql: the scripts.
        timeout_seconds: timeout for all of them.
        on_message: called with each message of PostgreSQL that is no error (a notice or warning), and its place.

    Raises:
        TemplateFailed: a script failed, or left a transaction open. ``extra`` has its index (``sql_index``), the
            ``statement``, its ``position`` (the first character of the element is 1) and ``line``, and PostgreSQL's
            ``sqlstate``, ``message`` and ``hint``.
        BackendUnavailable: the server is unavailable.
    """
    until = monotonic() + timeout_seconds
    for index, script in enumerate(sql):
        if "\0" in script:
            raise _failed(index, "a script holds a NUL character, which PostgreSQL does not accept", {})
    for index, script in enumerate(sql):
        try:
            statements = await asyncio.to_thread(lambda script: [*split(script)], script)
        except NoStatement as error:
            raise _failed(index, str(error), {"hint": error.hint, **_place(script, error.at)}) from error
        await _run_script(server, build, index, script, statements, until, timeout_seconds, on_message)


async def _run_script(
    server: Server,
    build: Login,
    index: int,
    script: str,
    statements: Sequence[Statement],
    until: float,
    timeout_seconds: float,
    on_message: Callable[[str], None],
) -> None:
    running = [0]

    def write(_: object, message: asyncpg.PostgresLogMessage) -> None:
        text = getattr(message, "message", None) or str(message)
        on_message(
            f"sql[{index}], line {script.count(chr(10), 0, running[0]) + 1}: {message.severity}:  {text}"
        )

    async with server.logged_in(
        build, settings=_SETTINGS, command_timeout_seconds=timeout_seconds
    ) as connection:
        connection.add_log_listener(write)
        for statement in statements:
            running[0] = statement.start
            try:
                await _run(connection, statement, max(until - monotonic(), 0.001))
            except TimeoutError as error:
                message = f"the SQL took longer than {timeout_seconds:g} seconds"
                raise _failed(index, message, _facts(script, statement, statement.start)) from error
            except (asyncpg.AdminShutdownError, asyncpg.PostgresConnectionError, OSError):
                # Raises if the server is unavailable. Otherwise the script ended its own session.
                await server.ping()
                message = "the session was terminated while the SQL ran"
                raise _failed(index, message, _facts(script, statement, statement.start)) from None
            except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
                if connection.is_in_transaction() or not _is_harmless(statement, error):
                    raise _explain(index, script, statement, error) from error
        if statements and connection.is_in_transaction():
            facts = {**_facts(script, statements[-1], statements[-1].start), "hint": _COMMIT_HINT}
            raise _failed(index, "a transaction is open at the end of the script", facts)


async def _run(connection: Connection, statement: Statement, timeout_seconds: float) -> None:
    if statement.copies == "in":
        await copy_in(connection, statement.text, statement.data.encode(), timeout_seconds=timeout_seconds)
    elif statement.copies == "out":
        await copy_out(connection, statement.text, timeout_seconds=timeout_seconds)
    else:
        await execute_script(connection, statement.text, timeout_seconds=timeout_seconds)


def _is_harmless(statement: Statement, error: Exception) -> bool:
    return any(isinstance(error, kind) and text.fullmatch(statement.text) for kind, text in _HARMLESS)


def _explain(index: int, script: str, statement: Statement, error: Exception) -> TemplateFailed:
    facts = _facts(script, statement, _offset(statement, error))
    facts |= {"sqlstate": getattr(error, "sqlstate", None), "hint": getattr(error, "hint", None)}
    if isinstance(error, _ROLE_ERRORS) and _OF_OTHER_ROLES.search(statement.text):
        facts["hint"] = facts["hint"] or _OWNER_HINT
    if isinstance(error, asyncpg.InsufficientPrivilegeError) and _CREATES_EXTENSION.search(statement.text):
        facts["hint"] = _EXTENSION_HINT
    detail = getattr(error, "detail", None)
    message = f"{error.args[0] if error.args else error}" + (f" ({detail})" if detail else "")
    return _failed(index, message, facts)


def _offset(statement: Statement, error: Exception) -> int:
    """Return the offset in the script at which PostgreSQL failed, or that of the statement."""
    position = getattr(error, "position", None)
    if position is not None:
        return statement.start + int(position) - 1
    line = _DATA_LINE.search(getattr(error, "context", None) or "") if statement.copies == "in" else None
    if line is None:
        return statement.start
    before = statement.data.split("\n", int(line[1]) - 1)[
        :-1
    ]  # splitlines() also ends lines at other characters
    return statement.data_start + sum(len(one) + 1 for one in before)


def _facts(script: str, statement: Statement, at: int) -> dict[str, object]:
    return {"statement": statement.text[:_STATEMENT_LENGTH], **_place(script, at)}


def _place(script: str, at: int) -> dict[str, object]:
    return {"position": at + 1, "line": script.count("\n", 0, at) + 1}


def _failed(index: int, message: str, facts: dict[str, object]) -> TemplateFailed:
    where = f", line {facts['line']}" if "line" in facts else ""
    said = {key: value for key, value in facts.items() if value is not None}
    return TemplateFailed(
        f"sql[{index}]{where}: {message}", extra={"sql_index": index, "message": message, **said}
    )
