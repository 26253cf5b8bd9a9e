"""What the service logs: one line for each record, as JSON or for people, with what the code that logged it was about.

What that is (a request, a lease, a database) is said once, where it is known, and is on every line that is logged from there
on, also in the tasks that were begun there. Lines say names, never a password or a token: whoever logs is told a lease's id.
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
def about(**facts: object) -> Iterator[Facts]:
    """Have these facts on every line that is logged during the block; ``note`` adds to them."""
    here: Facts = {**(_facts.get() or {}), **facts}
    before = _facts.set(here)
    try:
        yield here
    finally:
        _facts.reset(before)


def note(**facts: object) -> None:
    """Add to what the code that runs is about, if anybody said that it is about something."""
    here = _facts.get()
    if here is not None:
        here.update(facts)


def fields(**values: object) -> Mapping[str, object]:
    """Fields of one line: ``_log.info("…", extra=fields(status=200))``."""
    return {_FIELDS: values}


def configure(
    form: LogFormat, level: LogLevel, *, requests: bool = True, stream: TextIO | None = None
) -> None:
    """Log to a stream from now on.

    Args:
        form: ``auto`` is ``console`` on a terminal, and ``json`` elsewhere.
        level: from which on freshdb's own lines are logged. Libraries say no more than warnings, but for uvicorn: some
            would log the parameters of statements.
        requests: a line for each request (``freshdb.access``).
        stream: where to; by default standard error.
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
    # Nobody is told of threads, processes and tasks: finding them out would be a third of a line's cost.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    if sys.version_info >= (3, 12):
        logging.logAsyncioTasks = False


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``at`` (RFC 3339), ``level``, ``logger``, ``message``, and what it is about."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one record."""
        line: Facts = {
            "at": f"{_second(int(record.created))}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_said_of(record),
        }
        if (trace := _trace(self, record)) is not None:
            line["error"] = trace
        try:
            return orjson.dumps(line, default=str).decode()
        except TypeError:  # half a character, or a number that is too large: what others sent
            return json.dumps(line, default=str)


class ConsoleFormatter(logging.Formatter):
    """For people: the time (UTC), the level, the message, and ``name=value`` for what it is about."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one record; whatever somebody else put into it stays on its line."""
        said = "".join(f" {name}={_word(value)}" for name, value in _said_of(record).items())
        line = f"{_second(int(record.created)).replace('T', ' ')}.{int(record.msecs):03}"
        line += f" {record.levelname:<7} {record.name}: {_printable(record.getMessage())}{said}"
        trace = _trace(self, record)
        return line if trace is None else f"{line}\n{trace}"


def _said_of(record: logging.LogRecord) -> Facts:
    return {**(_facts.get() or {}), **getattr(record, _FIELDS, {})}


@lru_cache(maxsize=4)
def _second(timestamp: int) -> str:
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str | None:
    """The traceback, if there is one."""
    return formatter.formatException(record.exc_info) if record.exc_info and record.exc_info[0] else None


def _word(value: object) -> str:
    text = _printable(f"{value:.4f}" if isinstance(value, float) else str(value))
    return f'"{text}"' if not text or " " in text else text


def _printable(text: str) -> str:
    """Without line breaks and control characters, by which somebody could write lines of their own."""
    return (
        text if text.isprintable() else "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
    )
