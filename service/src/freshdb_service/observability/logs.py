"""Logging: one line per record, as JSON or for a console, with context fields.

Context fields (request, lease, database) are set once. All later lines of the same task, and of the tasks that it starts,
have them. Lines contain names and ids, never a password or a token.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, Literal, TextIO

import orjson

Facts = dict[str, object]
LogFormat = Literal["auto", "json", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]

_facts: ContextVar[Facts | None] = ContextVar("freshdb_log_facts", default=None)
ACCESS: Final = "freshdb.access"
_OURS: Final = ("freshdb", "freshdb_service")
_FIELDS: Final = "fields"


@contextmanager
def log_context(**facts: object) -> Iterator[Facts]:
    """Add context fields to all lines that are logged within the block. ``add_to_log_context`` adds more."""
    here: Facts = {**(_facts.get() or {}), **facts}
    before = _facts.set(here)
    try:
        yield here
    finally:
        _facts.reset(before)


def add_to_log_context(**facts: object) -> None:
    """Add fields to the current log context, if there is one."""
    here = _facts.get()
    if here is not None:
        here.update(facts)


def fields(**values: object) -> Mapping[str, object]:
    """Fields of one line: ``_log.info("…", extra=fields(status=200))``."""
    return {_FIELDS: values}


def configure(
    form: LogFormat, level: LogLevel, *, requests: bool = True, stream: TextIO | None = None
) -> None:
    """Configure logging to a stream.

    Args:
        form: ``auto`` is ``console`` on a terminal, else ``json``.
        level: minimum level of lines of freshdb and uvicorn. Other libraries log warnings and errors only, because some of
            them would log the parameters of statements.
        requests: log a line for each request (``freshdb.access``).
        stream: target of the lines, by default standard error.
    """
    stream = stream or sys.stderr
    as_json = not stream.isatty() if form == "auto" else form == "json"
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if as_json else ConsoleFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in (*_OURS, "uvicorn"):
        logging.getLogger(name).setLevel(level.upper())
    logging.getLogger(ACCESS).setLevel(logging.NOTSET if requests else logging.WARNING)
    logging.captureWarnings(capture=True)
    # No line has the thread, process or task, and finding them would be a third of a line's cost.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    if sys.version_info >= (3, 12):
        logging.logAsyncioTasks = False


class JsonFormatter(logging.Formatter):
    """Formats one JSON object per line: ``at`` (RFC 3339), ``level``, ``logger``, ``message``, and the context fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
        line: Facts = {
            "at": f"{_second(int(record.created))}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_context_of(record),
        }
        if (trace := _trace(self, record)) is not None:
            line["error"] = trace
        try:
            return orjson.dumps(line, default=str).decode()
        except TypeError:  # orjson refuses lone surrogates and large integers, which clients may send
            return json.dumps(line, default=str)


class ConsoleFormatter(logging.Formatter):
    """Formats lines for a console: the time (UTC), the level, the message, and ``name=value`` for each context field."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record. Line breaks in its values are escaped."""
        context = "".join(f" {name}={_word(value)}" for name, value in _context_of(record).items())
        line = f"{_second(int(record.created)).replace('T', ' ')}.{int(record.msecs):03}"
        line += f" {record.levelname:<7} {record.name}: {_printable(record.getMessage())}{context}"
        trace = _trace(self, record)
        return line if trace is None else f"{line}\n{trace}"


def _context_of(record: logging.LogRecord) -> Facts:
    return {**(_facts.get() or {}), **getattr(record, _FIELDS, {})}


@lru_cache(maxsize=4)
def _second(timestamp: int) -> str:
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str | None:
    """Return the traceback, if there is one."""
    return formatter.formatException(record.exc_info) if record.exc_info and record.exc_info[0] else None


def _word(value: object) -> str:
    text = _printable(f"{value:.4f}" if isinstance(value, float) else str(value))
    return f'"{text}"' if not text or " " in text else text


def _printable(text: str) -> str:
    """Escape line breaks and control characters, with which a client could forge log lines."""
    return (
        text if text.isprintable() else "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
    )
