"""``status --watch``: a live view. With rich it fills the terminal. Without rich it prints plain text repeatedly.

``q`` and Ctrl-C end it, and any other key refreshes it at once. While the service does not answer, it says so.
"""

from __future__ import annotations

import json
import select
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol

from freshdb.cli.exits import UsageError
from freshdb.cli.frame import Frame, next_frame
from freshdb.cli.output import print_result, rich_wanted
from freshdb.cli.text import as_json, pairs, short, without_password
from freshdb.client import Client

if TYPE_CHECKING:
    from collections.abc import Iterator

_SECONDS_TO_ANSWER: Final = 5.0


class _Screen(Protocol):
    def show(self, frame: Frame) -> None: ...


def watch(url: str, every_seconds: float, *, json_lines: bool) -> int:
    """Show the service's status at an interval until the user ends it, and return the exit code.

    Raises:
        UsageError: the output is neither a terminal nor JSON. A script would wait for its end forever.
    """
    if not json_lines and not sys.stdout.isatty():
        message = "--watch needs a terminal: add --json for one JSON object per line, or leave --watch out"
        raise UsageError(message)
    with suppress(KeyboardInterrupt), ExitStack() as stack:  # Ctrl-C is the usual end of this, not a failure
        client = stack.enter_context(Client(url, timeout_seconds=_SECONDS_TO_ANSWER, retry_seconds=0.0))
        screen = stack.enter_context(_screen(json_lines=json_lines))
        keys = stack.enter_context(_keys())
        frame = Frame(datetime.now(UTC), url, "…")
        while True:
            frame = next_frame(client, frame)
            screen.show(frame)
            if keys.pressed(every_seconds) in {"q", "Q"}:
                break
    return 0


@contextmanager
def _screen(*, json_lines: bool) -> Iterator[_Screen]:
    if json_lines:
        yield _JsonLines()
    elif rich_wanted(sys.stdout):
        from freshdb.cli.pretty import Screen  # noqa: PLC0415 - an extra, and slow to load

        with Screen() as screen:
            yield screen
    else:
        yield _Plain()


class _JsonLines:
    """One JSON object per line."""

    def show(self, frame: Frame) -> None:
        names = ("at", "url", "status", "version", "checks", "pools", "problem")
        shown = {name: getattr(frame, name) for name in names}
        leases = [without_password(one) for one in frame.leases]
        print(json.dumps(as_json({**shown, "leases": leases})), flush=True)


class _Plain:
    """Lines of text at a terminal. Each frame replaces the frame before."""

    def show(self, frame: Frame) -> None:
        print("\x1b[H\x1b[2J", end="")
        print_result(f"{frame.at:%H:%M:%S}  {frame.url}  {frame.status}  leases: {len(frame.leases)}")
        for name, state in frame.checks.items():
            if state != "ok":
                print_result(f"  {name}: {state}")
        if frame.problem:
            print_result(f"  {frame.problem}")
        for pool in frame.pools:
            print_result(
                f"  {short(pool.template)} {pool.isolation}  {pairs(pool.databases)}  "
                f"waiting={pool.waiting} max_size={pool.max_size}"
            )
        sys.stdout.flush()


class _Keys:
    """The keys that the user presses, if standard input is a terminal."""

    def __init__(self, *, terminal: bool) -> None:
        self._terminal = terminal

    def pressed(self, within_seconds: float) -> str:
        """Wait for a key, at most this long. Without one, return ''."""
        if not self._terminal:
            time.sleep(within_seconds)
            return ""
        ready, _, _ = select.select([sys.stdin], [], [], within_seconds)
        return sys.stdin.read(1) if ready else ""


@contextmanager
def _keys() -> Iterator[_Keys]:
    if not sys.stdin.isatty():
        yield _Keys(terminal=False)
        return
    import termios  # noqa: PLC0415 - missing on Windows
    import tty  # noqa: PLC0415

    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield _Keys(terminal=True)
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
