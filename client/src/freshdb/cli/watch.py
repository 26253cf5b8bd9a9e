"""``status --watch``: a live view. With rich it has the whole terminal; without, a plain text over and over.

``q`` and Ctrl-C end it, any other key looks again at once. A service that does not answer is said so, and asked again.
"""

from __future__ import annotations

import json
import select
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from freshdb.cli.output import as_json, pairs, result, rich_wanted, short, without_password
from freshdb.client import Client
from freshdb.errors import FreshdbError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from freshdb.models import Lease, Pool

_SECONDS_TO_ANSWER = 5.0
_MOST_LEASES = 1000


@dataclass(frozen=True, slots=True)
class Frame:
    """What there was to see at one moment."""

    at: datetime
    url: str
    status: str
    version: str | None = None
    checks: Mapping[str, object] = field(default_factory=dict)
    pools: tuple[Pool, ...] = ()
    leases: tuple[Lease, ...] = ()
    problem: str | None = None


class _Screen(Protocol):
    def show(self, frame: Frame) -> None: ...


def watch(url: str, every_seconds: float, *, json_lines: bool) -> int:
    """Show how the service does, until somebody ends it; gives the exit code."""
    with suppress(KeyboardInterrupt), ExitStack() as stack:  # Ctrl-C is how one ends this, and no failure
        client = stack.enter_context(Client(url, timeout_seconds=_SECONDS_TO_ANSWER, retry_seconds=0.0))
        screen = stack.enter_context(_screen(json_lines=json_lines))
        keys = stack.enter_context(_keys())
        frame = Frame(datetime.now(UTC), url, "…")
        while True:
            frame = _looked(client, frame)
            screen.show(frame)
            if keys.pressed(every_seconds) in {"q", "Q"}:
                break
    return 0


def _looked(client: Client, before: Frame) -> Frame:
    """The next frame; if the service does not answer, what was seen before, and why."""
    now = datetime.now(UTC)
    try:
        health = client.health()
        seen = replace(
            before,
            at=now,
            status=health.status,
            version=health.version,
            checks=health.checks,
            pools=tuple(client.pools()),
            leases=tuple(client.leases(limit=_MOST_LEASES)),
            problem=None,
        )
    except FreshdbError as error:
        return replace(before, at=now, status="unreachable", checks={}, problem=str(error))
    return seen


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
    """One JSON object a line."""

    def show(self, frame: Frame) -> None:
        said = {
            **{
                name: getattr(frame, name)
                for name in ("at", "url", "status", "version", "checks", "pools", "problem")
            },
            "leases": [without_password(one) for one in frame.leases],
        }
        print(json.dumps(as_json(said)), flush=True)


class _Plain:
    """Lines of text; on a terminal each frame takes the place of the one before."""

    def show(self, frame: Frame) -> None:
        if sys.stdout.isatty():
            print("\x1b[H\x1b[2J", end="")
        result(f"{frame.at:%H:%M:%S}  {frame.url}  {frame.status}  leases: {len(frame.leases)}")
        for name, said in frame.checks.items():
            if said != "ok":
                result(f"  {name}: {said}")
        if frame.problem:
            result(f"  {frame.problem}")
        for pool in frame.pools:
            result(
                f"  {short(pool.template)} {pool.isolation}  {pairs(pool.databases)}  "
                f"waiting={pool.waiting} max_size={pool.max_size}"
            )
        sys.stdout.flush()


class _Keys:
    """Keys that are pressed, where there is a keyboard."""

    def __init__(self, *, there: bool) -> None:
        self._there = there

    def pressed(self, within_seconds: float) -> str:
        """The key that is pressed within this time; '' if none is."""
        if not self._there:
            time.sleep(within_seconds)
            return ""
        ready, _, _ = select.select([sys.stdin], [], [], within_seconds)
        return sys.stdin.read(1) if ready else ""


@contextmanager
def _keys() -> Iterator[_Keys]:
    if not sys.stdin.isatty():
        yield _Keys(there=False)
        return
    import termios  # noqa: PLC0415 - not there on Windows
    import tty  # noqa: PLC0415

    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield _Keys(there=True)
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
