"""Who works on a claimed database is alive: seen at once, in the control plane itself.

A claim on a row has a deadline (``claimed_until``) that a living worker keeps ahead. That alone would let the death of a
replica cost as long as a claim lasts. So each replica also holds a session of its own, and in it, for every database that it
works on, a shared advisory lock whose key is made of the database's id and generation. PostgreSQL takes these locks away in
the moment in which the process is gone. A claim without its lock, seen so twice in a row, is a dead worker's, and is taken
over without waiting for its deadline.

It says nothing about who may write: that is decided by state and generation, as ever. A process that is paused keeps its
locks, and loses its claims to their deadlines. One whose session was cut, or that comes late with its locks, may be taken
for dead while it lives: then its work was for nothing, and harms nobody. Most work is over before a lock would be worth its
statement: it is taken a moment later, for many claims at once.
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
        """Of the lock, as ``_KEY`` makes it: half of the id's bits, for each generation another."""
        return int.from_bytes(self.id.bytes[8:], "big", signed=True) ^ self.generation


class WorkerLocks:
    """The claims that this replica works on."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._wanted: set[int] = set()
        self._changed = asyncio.Event()

    @contextmanager
    def worked_on(self, row: DatabaseRow) -> Iterator[None]:
        """This replica works on a database from here to the end of the block, and everybody can see that it lives."""
        key = LockedDatabase(row.id, row.generation).key
        self._wanted.add(key)
        self._changed.set()
        try:
            yield
        finally:
            self._wanted.discard(key)
            self._changed.set()

    async def show(self) -> None:
        """Hold the locks, for as long as the process lives."""
        while True:
            try:
                async with self._store.session(on_end=self._changed.set) as driver:
                    await self._hold(driver)
            except BackendUnavailable as error:
                _log.warning("cannot show what is worked on: %s", error)
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


async def unseen(connection: AsyncConnection) -> list[LockedDatabase]:
    """Claims whose deadline has not passed, and whose worker cannot be seen.

    After a restart of the control plane's server, nobody is missed until everybody had the time to come back.
    """
    rows = await connection.execute(_UNSEEN, {"return_seconds": _RETURN_SECONDS})
    return [LockedDatabase(row.id, row.generation) for row in rows]


def arrays(claims: Sequence[LockedDatabase]) -> dict[str, list[UUID] | list[int]]:
    """Parameters for a statement."""
    return {"gone_ids": [one.id for one in claims], "gone_generations": [one.generation for one in claims]}


_LOCK: Final = """
SELECT (SELECT count(pg_advisory_lock_shared(key)) FROM unnest($1::bigint[]) AS key),
       (SELECT count(*) FROM unnest($2::bigint[]) AS key WHERE pg_advisory_unlock_shared(key))
"""

_KEY: Final = "('x' || right(replace(d.id::text, '-', ''), 16))::bit(64)::bigint # d.generation::bigint"

_UNSEEN: Final = text(
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
