"""Advisory locks that show which workers are alive, so that the claims of dead ones are released at once.

A claim on a row has a deadline (``claimed_until``), which its worker extends. With the deadline alone, the claims of a
replica that died would last until it passes. Therefore each replica also keeps one session, with a shared advisory lock
for every database that it works on. The key of the lock is computed from the database's id and generation. PostgreSQL
releases the locks as soon as the process has gone. A claim that is found without its lock twice in a row belongs to a dead
worker, and is released before its deadline.

The locks do not decide which worker may write. State and generation do. A paused process keeps its locks, and loses its
claims by their deadlines. A worker whose session was cut, or whose locks are late, may be considered dead while it lives.
Its work is then lost, without harm. Most work ends before a lock would be useful, so locks are taken a moment later, for
many claims in one statement.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from freshdb_service.errors import BackendUnavailable
from freshdb_service.store.connection import Store
from freshdb_service.store.rows import DatabaseRow

_SOON_SECONDS: Final = 0.05
_AGAIN_SECONDS: Final = 0.2
_RETURN_SECONDS: Final = 3.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LockedDatabase:
    """A claimed database, at one generation."""

    id: UUID
    generation: int

    @property
    def key(self) -> int:
        """The key of the lock, as in ``_KEY``: half of the id's bits, combined with the generation."""
        return int.from_bytes(self.id.bytes[8:], "big", signed=True) ^ self.generation


class WorkerLocks:
    """The advisory locks of the databases that this replica works on."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._wanted: set[int] = set()
        self._changed = asyncio.Event()

    @contextmanager
    def working_on(self, row: DatabaseRow) -> Iterator[None]:
        """Hold the lock of a database within the block. It is taken a moment later, by ``hold``."""
        key = LockedDatabase(row.id, row.generation).key
        self._wanted.add(key)
        self._changed.set()
        try:
            yield
        finally:
            self._wanted.discard(key)
            self._changed.set()

    async def hold(self) -> None:
        """Keep the session and its locks, until cancelled."""
        while True:
            try:
                async with self._store.session(on_end=self._changed.set) as driver:
                    await self._hold(driver)
            except BackendUnavailable as error:
                _log.warning("cannot hold the locks of claimed databases: %s", error)
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _hold(self, driver: Any) -> None:  # noqa: ANN401 - the driver's connection has no type of SQLAlchemy's
        held: set[int] = set()
        self._changed.set()
        while not driver.is_closed():
            await self._changed.wait()
            await asyncio.sleep(_SOON_SECONDS)
            self._changed.clear()
            wanted = set(self._wanted)
            if wanted != held:
                await driver.fetch(_LOCK, list(wanted - held), list(held - wanted))
                held = wanted


async def without_lock(connection: AsyncConnection) -> list[LockedDatabase]:
    """Return the claims whose deadline has not passed, and whose lock is not held.

    There are none for ``_RETURN_SECONDS`` after a restart of the control plane's server, so that all replicas can reconnect.
    """
    rows = await connection.execute(_WITHOUT_LOCK, {"return_seconds": _RETURN_SECONDS})
    return [LockedDatabase(row.id, row.generation) for row in rows]


def arrays(claims: Sequence[LockedDatabase]) -> dict[str, list[UUID] | list[int]]:
    """Return the parameters of a statement over claims."""
    return {"gone_ids": [one.id for one in claims], "gone_generations": [one.generation for one in claims]}


_LOCK: Final = """
SELECT (SELECT count(pg_advisory_lock_shared(key)) FROM unnest($1::bigint[]) AS key),
       (SELECT count(*) FROM unnest($2::bigint[]) AS key WHERE pg_advisory_unlock_shared(key))
"""

_KEY: Final = "('x' || right(replace(d.id::text, '-', ''), 16))::bit(64)::bigint # d.generation::bigint"

_WITHOUT_LOCK: Final = text(
    f"""
    SELECT d.id, d.generation FROM databases d
    WHERE d.state IN ('creating', 'resetting', 'dropping') AND d.claimed_until > clock_timestamp()
      AND pg_postmaster_start_time() < clock_timestamp() - make_interval(secs => :return_seconds)
      AND ({_KEY}) NOT IN (
        SELECT (l.classid::bigint << 32) | l.objid::bigint FROM pg_locks l
        WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted
          AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()))
    """  # noqa: S608 - composed of our own text alone
)
