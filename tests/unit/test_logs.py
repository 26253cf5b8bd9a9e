from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from freshdb_service.observability.logs import LogFormat, add_to_log_context, configure, fields, log_context

_log = logging.getLogger("freshdb.test")


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(capture=False)
    for name in ("freshdb", "freshdb_service", "uvicorn", "freshdb.access"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def logging_to(form: LogFormat) -> io.StringIO:
    stream = io.StringIO()
    configure(form, "info", stream=stream)
    return stream


def test_line_has_the_fields_of_the_log_context() -> None:
    stream = logging_to("json")
    with log_context(request="1"):
        with log_context(database="d"):
            _log.info("inside")
        add_to_log_context(lease="l")
        _log.info("after", extra=fields(status=200))
    _log.info("outside")
    inside, after, outside = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (inside["request"], inside["database"]) == ("1", "d")
    assert (after["request"], after["lease"], after["status"]) == ("1", "l", 200)
    assert "database" not in after
    assert "request" not in outside


def test_fields_without_a_log_context_are_dropped() -> None:
    stream = logging_to("json")
    add_to_log_context(lease="l")
    _log.info("said")
    assert "lease" not in json.loads(stream.getvalue())


def test_line_breaks_in_values_cannot_forge_a_line() -> None:
    stream = logging_to("console")
    with log_context(path="a\nb c", name="\x1b[2J", empty=""):
        _log.info("one\r\n2026-01-01 00:00:00 ERROR forged")
    [line] = stream.getvalue().splitlines()
    assert "one\\r\\n2026" in line
    assert 'path="a\\nb c" name=\\x1b[2J empty=""' in line


def test_lone_surrogate_is_logged() -> None:
    stream = logging_to("json")
    _log.info("name \udc80", extra=fields(large=2**70))
    assert json.loads(stream.getvalue())["large"] == 2**70


@pytest.mark.parametrize("form", ["json", "console"])
def test_error_line_has_its_traceback(form: LogFormat) -> None:
    stream = logging_to(form)
    try:
        int("what went wrong")
    except ValueError:
        _log.exception("it failed")
    assert "Traceback" in stream.getvalue()
    assert "what went wrong" in stream.getvalue()
    assert form != "json" or len(stream.getvalue().splitlines()) == 1


def test_libraries_log_warnings_only() -> None:
    stream = logging_to("json")
    logging.getLogger("sqlalchemy.engine").info("parameters of a statement")
    logging.getLogger("sqlalchemy.engine").warning("careful")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["careful"]
