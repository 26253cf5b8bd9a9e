"""Prints results to standard output, as tables or JSON, and everything else to standard error.

At a terminal, with the extra ``cli``, tables have colours and a wait shows its duration. Programs that read the output
always get plain text.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager
from importlib.util import find_spec
from threading import Event, Thread
from typing import TYPE_CHECKING, Final, TextIO

from freshdb.cli.text import as_json, cell

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

_SHOWN_AFTER_SECONDS: Final = 0.5


def print_result(text: str) -> None:
    """Print a line of the result."""
    print(text)


def print_message(text: str) -> None:
    """Print a line on standard error."""
    print(text, file=sys.stderr, flush=True)


def print_error(message: str, next_step: str | None = None) -> None:
    """Print an error and the next step."""
    print_message(f"error: {message}")
    if next_step:
        print_message(f"  {next_step}")


def report_error(
    arguments: argparse.Namespace, message: str, next_step: str | None = None, *, code: str | None = None
) -> None:
    """Print an error, as JSON with ``--json``. `code` is the service's error code, if the service has refused."""
    if arguments.json:
        print_message(json.dumps({"error": {"code": code, "message": message, "next_step": next_step}}))
    else:
        print_error(message, next_step)


def print_json(value: object) -> None:
    """Print a result as JSON."""
    print(json.dumps(as_json(value), indent=2))


def print_table(headings: Sequence[str], rows: Sequence[Sequence[object]], *, nothing: str) -> None:
    """Print aligned columns. For a list without rows, print `nothing` on standard error."""
    if not rows:
        print_message(nothing)
        return
    if rich_wanted(sys.stdout):
        from freshdb.cli import pretty  # noqa: PLC0415 - an extra, and slow to load

        pretty.print_table(headings, [[cell(one) for one in row] for row in rows])
        return
    cells = [[heading.upper() for heading in headings], *([cell(one) for one in row] for row in rows)]
    widths = [max(len(row[index]) for row in cells) for index in range(len(headings))]
    for row in cells:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show the reason and the duration of a wait at a terminal, once the block has taken half a second."""
    if not rich_wanted(sys.stderr):
        yield
        return
    ended = Event()

    def show() -> None:
        if ended.wait(_SHOWN_AFTER_SECONDS):
            return
        from freshdb.cli import pretty  # noqa: PLC0415 - as above

        if not ended.is_set():
            with pretty.progress(what):
                ended.wait()

    line = Thread(target=show, name="progress", daemon=True)
    line.start()
    try:
        yield
    finally:
        ended.set()
        line.join()


def rich_wanted(stream: TextIO) -> bool:
    """Return true for a terminal that can show more than plain text, if rich is installed."""
    return stream.isatty() and os.environ.get("TERM") != "dumb" and find_spec("rich") is not None
