"""Whether a PostgreSQL server still gives signs of life; and what happens when it does not.

A server that has crashed, is full, or lets nobody in says so, and whoever asked it hears at once. The one that must be
found out is the one that says nothing: behind a network that swallows what is sent, connections stay open, and each
statement would wait for its own timeout, which for copying a large template is ten minutes. So each replica asks each server
for a sign of life, over and over, in a session that is for this alone. When two in a row do not come, the server is *lost*:
all connections to it are cut, so that everything that waits ends now, and whoever asks it for something is refused at once,
so that nothing piles up. The first answer makes it as good as before.

The other side has the same trouble with us: ``KEEPALIVES``.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import perf_counter
from typing import Any, Final
from weakref import WeakSet

from freshdb_service.errors import BackendUnavailable

_MISSES: Final = 2
_log = logging.getLogger(__name__)

KEEPALIVES: Final = {
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "60s",
}
"""Settings of our sessions: PostgreSQL ends one whose machine or network is gone, and frees its locks, after a minute. With
the kernel's own values it would after two hours, or, where an answer was under way, a quarter of an hour.
https://www.postgresql.org/docs/current/runtime-config-connection.html"""

Driver = Any
"""A connection of asyncpg; only the packages that open one know that."""

Told = Callable[[float | None], None]
"""Told of every sign of life after how many seconds it came; of one that did not come, or a refusal, ``None``."""


def cut_between(error: BaseException) -> bool:
    """Whether this is what libraries make of a connection that is gone between two steps of one statement.

    uvloop refuses to write to it; asyncpg (0.32, ``Connection._abort``) goes on with ``None``. They say no more than that.
    """
    if isinstance(error, RuntimeError):
        return "handler is closed" in str(error)
    if not isinstance(error, AttributeError) or error.obj is not None:
        return False
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).startswith("asyncpg.")


def nobody(seconds: float | None) -> None:
    """Tell nobody."""
    del seconds


class Liveness:
    """Of one server, as this replica feels it.

    Args:
        what: has it, for messages.
        open_session: opens the session for signs of life.
        every_seconds: how often one is asked for, and how long it may take.
        told: of each.
    """

    def __init__(
        self,
        what: str,
        open_session: Callable[[], Awaitable[Driver]],
        *,
        every_seconds: float,
        told: Told = nobody,
    ) -> None:
        self._what = what
        self._open = open_session
        self._every_seconds = every_seconds
        self._told = told
        self._session: Driver = None
        self._connections: WeakSet[Driver] = WeakSet()
        self._lost = False

    def watch(self, connection: Driver) -> None:
        """Cut this connection when the server is lost."""
        self._connections.add(connection)

    def check(self) -> None:
        """See that the server is not lost.

        Raises:
            BackendUnavailable: it is.
        """
        if self._lost:
            raise BackendUnavailable(f"{self._what} does not answer", retry_after_seconds=1.0)

    async def feel(self) -> None:
        """Ask for signs of life, for as long as the process lives."""
        missed = 0
        try:
            while True:
                missed = 0 if await self._answers() else missed + 1
                self._judge(missed)
                # Who has just waited in vain has waited for long enough.
                await asyncio.sleep(0 if missed else self._every_seconds)
        finally:
            self._end()

    def _judge(self, missed: int) -> None:
        if self._lost and not missed:
            _log.warning("%s answers again", self._what)
        self._lost = missed >= _MISSES
        if self._lost and missed == _MISSES:
            there = [one for one in self._connections if not one.is_closed()]
            _log.warning("%s gives no sign of life: %d connections are cut", self._what, len(there))
            for one in there:
                one.terminate()

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(self._every_seconds):
                if self._session is None or self._session.is_closed():
                    self._session = await self._open()
                asked_at = perf_counter()
                await self._session.execute("SELECT 1")
                self._told(perf_counter() - asked_at)
        except TimeoutError:
            self._end()
            self._told(None)
            return False
        except Exception:  # noqa: BLE001 - it refuses, whatever the reason: that is an answer, which others get, too
            self._end()
            self._told(None)
        return True

    def _end(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            with suppress(Exception):
                session.terminate()
