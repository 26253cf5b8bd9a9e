"""The queues of callers that wait for a database of a pool: first come, first served, across replicas.

A waiter's *ticket* is the instant of its first request, in microseconds of Redis's clock. Only the waiter with the lowest
ticket, the *head*, tries to get a database. When it leaves, with or without a database, the next one is woken. A new
caller goes to the end while others wait. Every process refreshes the presence of its waiters every ``REFRESH_SECONDS``, in
one call per pool. A waiter that was not refreshed for ``PRESENCE_SECONDS`` is skipped, so that a dead replica blocks the
queue no longer than that. A waiter that Redis has lost returns to its former place.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, cast
from uuid import UUID, uuid4

from freshdb_service.errors import BackendUnavailable
from freshdb_service.redis.connection import RedisConnection, translated
from freshdb_service.redis.wakeups import Wakeups

PRESENCE_SECONDS: Final = 1.0
REFRESH_SECONDS: Final = 0.25
_CHUNK: Final = 100
"""Maximum number of waiters or queues per call, because Redis answers no other call in the meantime."""

_LONGEST_WORD: Final = 200
_MOST_PAIRS: Final = 10
"""Maximum number of a holder's fields that are stored in the queue, enough to recognise it."""

Gone = Callable[[], Awaitable[object]]
"""A function that returns when the caller has gone."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class QueuePosition:
    """The length of a queue and a waiter's position, which counts from 1. It is 0 if the waiter is not in the queue."""

    position: int
    waiting: int
    wanted: int
    """Number of databases that all waiters together want."""
    age_seconds: float
    """Time for which the head has waited."""


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """A waiter in a queue, for the dashboard.

    Attributes:
        since: the instant of its first request, by Redis's clock.
        waited_seconds: the time since then, by the same clock.
        wanted: number of databases that it wants.
        principal: the caller's principal. Empty if Redis has lost it.
        holder: the caller's holder fields, shortened.
    """

    since: datetime
    waited_seconds: float
    wanted: int
    principal: str = ""
    holder: Mapping[str, str] = field(default_factory=dict)


class Waiter:
    """One caller in a pool's queue."""

    def __init__(self, pool_id: UUID, ticket: int, wanted: int, turn: asyncio.Event, name: str) -> None:
        self.pool_id = pool_id
        self.ticket = ticket
        self.wanted = wanted
        self.name = name
        self._turn = turn
        self._over = False

    async def turn(self, timeout_seconds: float) -> bool:
        """Wait until this waiter is woken. ``False`` after the timeout, or after ``end``."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._turn.wait()
        except TimeoutError:
            return False
        self._turn.clear()
        return not self._over

    def end(self) -> None:
        """Stop waiting."""
        self._over = True
        self._turn.set()

    @contextmanager
    def unless(self, gone: Gone) -> Iterator[None]:
        """Stop waiting when the caller has gone, within the block."""

        async def watch() -> None:
            await gone()
            self.end()

        watching = asyncio.create_task(watch())
        try:
            yield
        finally:
            watching.cancel()


class Queue:
    """The queues of all pools, and the waiters of this process."""

    def __init__(self, redis: RedisConnection, wakeups: Wakeups) -> None:
        self._redis = redis
        self._wakeups = wakeups
        self._here: defaultdict[UUID, dict[str, Waiter]] = defaultdict(dict)

    def _keys(self, pool_id: UUID) -> list[str]:
        return [self._redis.key(part, pool_id) for part in ("queue", "presence", "wanted", "who")]

    @asynccontextmanager
    async def waiting(
        self,
        pool_id: UUID,
        ticket: int,
        *,
        wanted: int = 1,
        principal: str = "",
        holder: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Waiter]:
        """Wait in the queue of a pool within the block. ``principal`` and ``holder`` are shown on the dashboard."""
        name = uuid4().hex
        waiter = Waiter(pool_id, ticket, wanted, self._wakeups.turn_of(name), name)
        self._here[pool_id][name] = waiter
        try:
            await self._enter(pool_id, [waiter], who=_said(principal, holder or {}))
            yield waiter
        finally:
            del self._here[pool_id][name]
            if not self._here[pool_id]:
                del self._here[pool_id]
            self._wakeups.forget(name)
            await asyncio.shield(self._leave(pool_id, name))

    async def ticket_again(self, pool_id: UUID, owner: str, ticket: int, keep_seconds: float) -> int:
        """Return the former ticket of this owner in this pool, or else ``ticket``, and keep it for ``keep_seconds``.

        Therefore a caller that waits in several consecutive requests keeps its place.
        """
        key = self._redis.key("ticket", pool_id, owner)
        async with translated():
            before = await self._redis.client.get(key)
            mine = int(before) if before is not None else ticket
            await self._redis.client.set(key, mine, px=max(1, round(keep_seconds * 1000)))
        return mine

    async def has_ticket(self, pool_id: UUID, owner: str) -> bool:
        """Return whether this owner has a ticket of an earlier request in this pool's queue."""
        async with translated():
            return bool(await self._redis.client.exists(self._redis.key("ticket", pool_id, owner)))

    async def wake(self, pool_id: UUID) -> int:
        """Wake the head of a pool's queue, on whichever replica it waits. Return the length of the queue."""
        return int(
            cast("int", await self._redis.run("queue_wake", self._keys(pool_id), [self._wakeups.channel]))
        )

    async def place(self, pool_id: UUID, waiter: Waiter | None = None) -> QueuePosition:
        """Return the length of a queue, and the position of a waiter."""
        [place] = await self._places([pool_id], waiter)
        return place

    async def places(self, pool_ids: Sequence[UUID]) -> list[QueuePosition]:
        """Return the lengths of the queues of pools, in their order."""
        found: list[QueuePosition] = []
        for start in range(0, len(pool_ids), _CHUNK):
            found += await self._places(pool_ids[start : start + _CHUNK], None)
        return found

    async def _places(self, pool_ids: Sequence[UUID], waiter: Waiter | None) -> list[QueuePosition]:
        keys = [self._redis.key(part, one) for one in pool_ids for part in ("queue", "presence", "wanted")]
        answer = cast(
            "list[int]", await self._redis.run("queue_place", keys, [waiter.name if waiter else ""])
        )
        numbers = [iter(map(int, answer))] * 4
        return [
            QueuePosition(position, waiting, wanted, microseconds / 1_000_000)
            for position, waiting, wanted, microseconds in zip(*numbers, strict=True)
        ]

    async def standing(self, pool_id: UUID, *, most: int) -> list[QueueEntry]:
        """Return the waiters of a pool in their order."""
        answer = cast("list[str]", await self._redis.run("queue_waiters", self._keys(pool_id), [most]))
        now, *found = answer
        standing = []
        for ticket, wanted, who in zip(found[::3], found[1::3], found[2::3], strict=True):
            since = datetime.fromtimestamp(float(ticket) / 1e6, UTC)
            waited = max(0.0, (float(now) - float(ticket)) / 1e6)
            standing.append(QueueEntry(since, waited, int(wanted), **_read(who)))
        return standing

    async def stay(self, stopping: asyncio.Event) -> None:
        """Refresh the presence of every waiter of this process. When ``stopping`` is set, end their waiting."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(REFRESH_SECONDS):
                    await stopping.wait()
                    self._end()
                    await asyncio.Event().wait()  # until the interval has passed
            # All pools at once: otherwise a slow Redis could let the presence of the last ones end.
            await asyncio.gather(*(self._stay(pool_id, waiters) for pool_id, waiters in self._here.items()))

    async def _stay(self, pool_id: UUID, waiters: Mapping[str, Waiter]) -> None:
        there = list(waiters)
        try:
            for start in range(0, len(there), _CHUNK):
                names = there[start : start + _CHUNK]
                await self._enter(pool_id, [waiters[name] for name in names if name in waiters])
                for name in names:
                    if name not in waiters:  # it left in the meantime, possibly before it was entered
                        await self._leave(pool_id, name)
        except BackendUnavailable as error:
            _log.warning("cannot refresh the queue: %s", error)

    async def _leave(self, pool_id: UUID, name: str) -> None:
        with suppress(BackendUnavailable):  # its presence ends by itself
            await self._redis.run("queue_leave", self._keys(pool_id), [name, self._wakeups.channel])

    def _end(self) -> None:
        for waiters in self._here.values():
            for waiter in waiters.values():
                waiter.end()

    async def _enter(self, pool_id: UUID, waiters: list[Waiter], *, who: str = "") -> None:
        arguments: list[str | int] = [round(PRESENCE_SECONDS * 1000)]
        for waiter in waiters:
            arguments += [waiter.name, waiter.ticket, waiter.wanted, who]
        head, _ = cast("list[str]", await self._redis.run("queue_enter", self._keys(pool_id), arguments))
        self._wakeups.wake(head)


def _said(principal: str, holder: Mapping[str, str]) -> str:
    pairs = list(holder.items())[:_MOST_PAIRS]
    return json.dumps([principal, {key: word[:_LONGEST_WORD] for key, word in pairs}])


def _read(who: str) -> dict[str, Any]:
    if not who:
        return {}
    principal, holder = json.loads(who)
    return {"principal": principal, "holder": holder}
