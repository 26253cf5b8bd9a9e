"""Results to standard output, as tables or JSON; everything else to standard error.

At a terminal, and with the extra ``cli``, tables have colours and waiting shows for how long. Programs that read the
output get plain text, always.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from datetime import datetime
from importlib.util import find_spec
from threading import Event, Thread
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping, Sequence

    from freshdb.models import Lease

_SHOWN_CHARACTERS: Final = 12
_SHOWN_AFTER_SECONDS: Final = 0.5


def result(text: str) -> None:
    """Print a line of the result."""
    print(text)


def say(text: str) -> None:
    """Tell what is going on."""
    print(text, file=sys.stderr, flush=True)


def complain(what: str, next_step: str | None = None) -> None:
    """Tell what went wrong, and what to do about it."""
    say(f"error: {what}")
    if next_step:
        say(f"  {next_step}")


def complain_to(
    arguments: argparse.Namespace, what: str, next_step: str | None = None, *, code: str | None = None
) -> None:
    """The same in the form that was asked for; `code` is the service's, if it is its error."""
    if arguments.json:
        say(json.dumps({"error": {"code": code, "message": what, "next_step": next_step}}))
    else:
        complain(what, next_step)


def print_json(value: object) -> None:
    """Print a result as JSON."""
    print(json.dumps(as_json(value), indent=2))


def as_json(value: object) -> object:
    """Turn records into JSON values, with the names that the REST interface uses."""
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: as_json(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, dict):
        return {str(key): as_json(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(one) for one in value]
    return value


def print_table(headings: Sequence[str], rows: Sequence[Sequence[object]], *, nothing: str) -> None:
    """Print aligned columns; a list without rows says `nothing` on standard error."""
    if not rows:
        say(nothing)
        return
    if rich_wanted(sys.stdout):
        from freshdb.cli import pretty  # noqa: PLC0415 - an extra, and slow to load

        pretty.print_table(headings, [[_cell(one) for one in row] for row in rows])
        return
    cells = [[heading.upper() for heading in headings], *([_cell(one) for one in row] for row in rows)]
    widths = [max(len(row[index]) for row in cells) for index in range(len(headings))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show at a terminal what is waited for during the block, and for how long already; nothing if that is no time."""
    if not rich_wanted(sys.stderr):
        yield
        return
    over = Event()

    def show() -> None:
        if over.wait(_SHOWN_AFTER_SECONDS):
            return
        from freshdb.cli import pretty  # noqa: PLC0415 - as above

        if not over.is_set():
            with pretty.progress(what):
                over.wait()

    line = Thread(target=show, name="progress", daemon=True)
    line.start()
    try:
        yield
    finally:
        over.set()
        line.join()


def rich_wanted(stream: TextIO) -> bool:
    """Whether a person reads a stream at a terminal that can show more than text, and rich is there to do so."""
    return stream.isatty() and os.environ.get("TERM") != "dumb" and find_spec("rich") is not None


def without_password(lease: Lease) -> dict[str, object]:
    """A lease as JSON, for whoever reads along."""
    shown = [one.name for one in fields(lease) if one.name != "password"]
    return {name: as_json(getattr(lease, name)) for name in shown}


def pairs(values: Mapping[str, object]) -> str:
    """Write ``key=value`` words."""
    return " ".join(f"{key}={value}" for key, value in values.items())


def size(number: int | None) -> str:
    """Write a number of bytes for people."""
    if number is None:
        return "-"
    amount = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1024 or unit == "GB":  # noqa: PLR2004 - how PostgreSQL counts
            return f"{amount:.0f} {unit}"
        amount /= 1024
    raise AssertionError


def short(reference: str) -> str:
    """Shorten ``name@fingerprint`` for a table; JSON has it whole."""
    name, separator, fingerprint = reference.partition("@")
    cut = fingerprint if len(fingerprint) <= _SHOWN_CHARACTERS else f"{fingerprint[:_SHOWN_CHARACTERS]}…"
    return f"{name}{separator}{cut}"


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return " ".join(str(value).split())
