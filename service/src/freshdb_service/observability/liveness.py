"""Liveness of PostgreSQL servers, for fast failure when one no longer answers.

A server that has crashed, is full, or refuses logins returns an error at once. A server behind a network that drops packets
returns nothing. Its connections stay open, and each statement would wait for its own timeout, which is ten minutes for
copying a large template. So each replica probes each server periodically, in a dedicated session. After two missed probes
the server is *lost*. All connections to it are closed, so that statements fail at once, and new statements are refused, so
that they do not pile up. The first answer ends this.

The server has the same problem with a replica that disappears: see ``KEEPALIVES``.
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
"""Settings of freshdb's sessions. With them, PostgreSQL ends a session whose client or network is gone after a minute, and
frees its locks. With the kernel's defaults it takes two hours, or 15 minutes if a result was being sent.
https://www.postgresql.org/docs/current/runtime-config-connection.html"""

Driver = Any
"""An asyncpg connection. Only the packages that open one may import asyncpg."""

OnProbe = Callable[[float | None], None]
"""Called after each probe with the seconds until the answer, or ``None`` for no answer or an error."""


def cut_between(error: BaseException) -> bool:
    """True if the error means that the connection was closed between two steps of one statement.

    uvloop then raises a ``RuntimeError``, because the transport is closed. asyncpg (0.32, ``Connection._abort``) raises an
    ``AttributeError`` of ``None``. There is no more specific error.
    """
    if isinstance(error, RuntimeError):
        return "handler is closed" in str(error)
    if not isinstance(error, AttributeError) or error.obj is not None:
        return False
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).startswith("asyncpg.")


def ignore(seconds: float | None) -> None:
    """Do nothing with the result of a probe."""
    del seconds


class Liveness:
    """Probes one server for this replica.

    Args:
        what: name of the server, for messages.
        open_session: opens the session for probes.
        every_seconds: interval between probes, and their timeout.
        on_probe: called after each probe.
    """

    def __init__(
        self,
        what: str,
        open_session: Callable[[], Awaitable[Driver]],
        *,
        every_seconds: float,
        on_probe: OnProbe = ignore,
    ) -> None:
        self._what = what
        self._open = open_session
        self._every_seconds = every_seconds
        self._on_probe = on_probe
        self._session: Driver = None
        self._connections: WeakSet[Driver] = WeakSet()
        self._lost = False

    def watch(self, connection: Driver) -> None:
        """Close this connection when the server is lost."""
        self._connections.add(connection)

    def check(self) -> None:
        """Refuse to use a lost server.

        Raises:
            BackendUnavailable: the server is lost.
        """
        if self._lost:
            raise BackendUnavailable(f"{self._what} does not answer", retry_after_seconds=1.0)

    async def run(self) -> None:
        """Probe the server until cancelled."""
        missed = 0
        try:
            while True:
                missed = 0 if await self._answers() else missed + 1
                self._update(missed)
                # A missed probe has already taken the whole interval.
                await asyncio.sleep(0 if missed else self._every_seconds)
        finally:
            self._close()

    def _update(self, missed: int) -> None:
        if self._lost and not missed:
            _log.warning("%s answers again", self._what)
        self._lost = missed >= _MISSES
        if self._lost and missed == _MISSES:
            there = [one for one in self._connections if not one.is_closed()]
            _log.warning("%s does not answer: closing %d connections to it", self._what, len(there))
            for one in there:
                one.terminate()

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(self._every_seconds):
                if self._session is None or self._session.is_closed():
                    self._session = await self._open()
                asked_at = perf_counter()
                await self._session.execute("SELECT 1")
                self._on_probe(perf_counter() - asked_at)
        except TimeoutError:
            self._close()
            self._on_probe(None)
            return False
        except Exception:  # noqa: BLE001 - any error is an answer, which statements get at once, too
            self._close()
            self._on_probe(None)
        return True

    def _close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            with suppress(Exception):
                session.terminate()
