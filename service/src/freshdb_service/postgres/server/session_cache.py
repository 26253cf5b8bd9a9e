"""Sessions of the service inside databases, kept open for the next reset.

To open one costs more than everything that a reset usually does in it, and the database that was given back last is the one
that is handed out next. So a bounded number stays open, those used last; the rest is closed. An idle session of ours in a
leased database holds nothing: no lock, no snapshot. Its holder can neither use nor end it.

What these sessions do is not counted in the statistics that resets go by (``track_counts``, which takes a superuser), and
fires no triggers and checks no foreign keys (``session_replication_role``, which can be granted).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeAlias

import asyncpg

from freshdb_reset import FORMATS
from freshdb_service.observability.instrumentation import Visiting, unseen
from freshdb_service.postgres.server.connections import answering, closed

Session: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

UNCOUNTED: Final = {"track_counts": "off"}
AS_REPLICA: Final = {"session_replication_role": "replica"}
SETTINGS: Final = {
    "row_security": "off",
    "stats_fetch_consistency": "none",
    "plan_cache_mode": "force_generic_plan",
    "max_parallel_workers_per_gather": "0",
    **FORMATS,
}
"""Beside what every connection of the service sends: for resets."""


class SessionCache:
    """Idle sessions, by database.

    Args:
        name: of the server, for messages.
        open_session: opens one inside a database.
        most: how many may be idle.
        visiting: surrounds every use of one.
    """

    def __init__(
        self,
        name: str,
        open_session: Callable[[str], Awaitable[Session]],
        most: int,
        visiting: Visiting = unseen,
    ) -> None:
        self._name = name
        self._open = open_session
        self._most = most
        self._visiting = visiting
        self._idle: OrderedDict[Session, str] = OrderedDict()
        self._closing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def inside(self, database: str) -> AsyncIterator[Session]:
        """A session inside a database, for this block alone. One in which anything failed is not used again.

        Raises:
            BackendUnavailable: the server does not answer.
        """
        with self._visiting("session"):
            session = self._take(database) or await self._open(database)
            try:
                with answering(self._name):
                    yield session
            except BaseException:
                self._discard(session)
                raise
        self._idle[session] = database
        while len(self._idle) > self._most:
            oldest, _ = self._idle.popitem(last=False)
            self._discard(oldest)

    def keeps(self, database: str) -> bool:
        """Whether a session inside a database is idle, and looks alive."""
        return any(where == database and not one.is_closed() for one, where in self._idle.items())

    async def leave(self, database: str) -> None:
        """Close every idle session inside a database."""
        for session in [one for one, where in self._idle.items() if where == database]:
            del self._idle[session]
            await closed(session)

    async def close(self) -> None:
        """Close every idle session."""
        while self._idle:
            session, _ = self._idle.popitem()
            await closed(session)
        await asyncio.gather(*self._closing)

    def _take(self, database: str) -> Session | None:
        for session in [one for one, where in self._idle.items() if where == database][::-1]:
            del self._idle[session]
            if not session.is_closed():
                return session
        return None

    def _discard(self, session: Session) -> None:
        task = asyncio.create_task(closed(session))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
