"""Sessions of the service in databases, kept open for the next reset.

Opening a session costs more than a usual reset, and the database that was released last is the one that is leased next. So a
bounded number of sessions stays open, and the least recently used ones are closed. An idle session of the service in a
leased database holds no lock and no snapshot. The holder can neither use nor terminate it.

The writes of these sessions are not counted in the statistics that resets rely on (``track_counts = off``, which needs a
superuser). They fire no triggers and check no foreign keys (``session_replication_role``, which can be granted).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeAlias

import asyncpg

from freshdb_reset import FORMATS
from freshdb_service.observability.instrumentation import Instrument, no_instrument
from freshdb_service.postgres.server.connections import close_connection, translate_outages

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
"""Settings for resets, in addition to those of every connection of the service."""


class SessionCache:
    """Idle sessions, by database.

    Args:
        name: name of the server, for messages.
        open_session: opens a session in a database.
        most: maximum number of idle sessions.
        instrument: context of every use of a session, for metrics and traces.
    """

    def __init__(
        self,
        name: str,
        open_session: Callable[[str], Awaitable[Session]],
        most: int,
        instrument: Instrument = no_instrument,
    ) -> None:
        self._name = name
        self._open = open_session
        self._most = most
        self._instrument = instrument
        self._idle: OrderedDict[Session, str] = OrderedDict()
        self._closing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def inside(self, database: str) -> AsyncIterator[Session]:
        """Lend a session in a database for one block. A session in which the block failed is not used again.

        Raises:
            BackendUnavailable: the server does not answer.
        """
        with self._instrument("session"):
            session = self._take(database) or await self._open(database)
            try:
                with translate_outages(self._name):
                    yield session
            except BaseException:
                self._discard(session)
                raise
        self._idle[session] = database
        while len(self._idle) > self._most:
            oldest, _ = self._idle.popitem(last=False)
            self._discard(oldest)

    def has_idle(self, database: str) -> bool:
        """Return whether there is an idle session in a database that does not look closed."""
        return any(where == database and not one.is_closed() for one, where in self._idle.items())

    async def close_idle(self, database: str) -> None:
        """Close every idle session in a database."""
        for session in [one for one, where in self._idle.items() if where == database]:
            del self._idle[session]
            await close_connection(session)

    async def close(self) -> None:
        """Close every idle session."""
        while self._idle:
            session, _ = self._idle.popitem()
            await close_connection(session)
        await asyncio.gather(*self._closing)

    def _take(self, database: str) -> Session | None:
        for session in [one for one, where in self._idle.items() if where == database][::-1]:
            del self._idle[session]
            if not session.is_closed():
                return session
        return None

    def _discard(self, session: Session) -> None:
        task = asyncio.create_task(close_connection(session))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
