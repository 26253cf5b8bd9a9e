"""Who waits for a database of a pool, first come, first served across replicas.

A waiter's *ticket* is the instant (microseconds of Redis's clock) at which it first asked. Only the waiter with the lowest
ticket, the *head*, tries to get a database; when it leaves, with or without one, the next is woken. Whoever asks while
somebody waits goes behind. The process that a waiter belongs to says every ``REFRESH_SECONDS`` that it is still there (in
one call per pool); a waiter not heard of for ``PRESENCE_SECONDS`` is passed over, so that a replica that dies holds nobody
up for longer. A waiter that Redis forgot comes back to the place that it had.
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
"""So many waiters are there, and so many queues looked at, at once: for longer, nobody else gets an answer from Redis."""

_LONGEST_WORD: Final = 200
_MOST_PAIRS: Final = 10
"""Of a holder so much is kept with its place in the queue: enough to know it by."""

Gone = Callable[[], Awaitable[object]]
"""Returns once the caller has gone."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class QueuePosition:
    """Where a waiter stands; ``position`` counts from 1, and is 0 for one that does not wait."""

    position: int
    waiting: int
    wanted: int
    """How many databases all waiters together want."""
    age_seconds: float
    """How long the first in the queue has waited."""


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """Somebody who stands in a queue, for people to look at.

    Attributes:
        since: when they first asked, by Redis's clock.
        waited_seconds: for how long they wait, by the same clock.
        wanted: how many databases they want at once.
        principal: who; empty where Redis has forgotten it.
        holder: what they said of themselves, cut to what is worth reading.
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
        """Wait until this waiter is woken as the head (or should look again); ``False`` after the timeout, or the end."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._turn.wait()
        except TimeoutError:
            return False
        self._turn.clear()
        return not self._over

    def end(self) -> None:
        """It shall wait no longer."""
        self._over = True
        self._turn.set()

    @contextmanager
    def unless(self, gone: Gone) -> Iterator[None]:
        """Within the block, have it wait no longer once its caller has gone."""

        async def watch() -> None:
            await gone()
            self.end()

        watching = asyncio.create_task(watch())
        try:
            yield
        finally:
            watching.cancel()


class Queue:
    """The queues of all pools, seen from one process."""

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
        """Stand in the queue of a pool from here to the end of the block; ``principal`` and ``holder`` say who does."""
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
        """The ticket that this owner had in this pool before, or else this one, remembered for ``keep_seconds``.

        A caller who waits in several requests, one after the other, so keeps its place.
        """
        key = self._redis.key("ticket", pool_id, owner)
        async with translated():
            before = await self._redis.client.get(key)
            mine = int(before) if before is not None else ticket
            await self._redis.client.set(key, mine, px=max(1, round(keep_seconds * 1000)))
        return mine

    async def has_ticket(self, pool_id: UUID, owner: str) -> bool:
        """Whether this owner has a place in this pool's queue from a request before."""
        async with translated():
            return bool(await self._redis.client.exists(self._redis.key("ticket", pool_id, owner)))

    async def wake(self, pool_id: UUID) -> int:
        """Wake the head of a pool's queue, wherever it is; returns how many wait."""
        return int(
            cast("int", await self._redis.run("queue_wake", self._keys(pool_id), [self._wakeups.channel]))
        )

    async def place(self, pool_id: UUID, waiter: Waiter | None = None) -> QueuePosition:
        """How long the queue is, and where a waiter stands in it."""
        [place] = await self._places([pool_id], waiter)
        return place

    async def places(self, pool_ids: Sequence[UUID]) -> list[QueuePosition]:
        """How long the queues of these pools are, in their order."""
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
        """Who waits for a database of a pool, the first in the queue first."""
        answer = cast("list[str]", await self._redis.run("queue_waiters", self._keys(pool_id), [most]))
        now, *found = answer
        standing = []
        for ticket, wanted, who in zip(found[::3], found[1::3], found[2::3], strict=True):
            since = datetime.fromtimestamp(float(ticket) / 1e6, UTC)
            waited = max(0.0, (float(now) - float(ticket)) / 1e6)
            standing.append(QueueEntry(since, waited, int(wanted), **_read(who)))
        return standing

    async def stay(self, stopping: asyncio.Event) -> None:
        """Say for every waiter of this process that it is still there; once ``stopping`` is set, none waits any longer."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(REFRESH_SECONDS):
                    await stopping.wait()
                    self._end()
                    await asyncio.Event().wait()  # the next look is due at its time
            # All pools at once: a Redis that answers slowly must not let the last ones seem gone.
            await asyncio.gather(*(self._stay(pool_id, waiters) for pool_id, waiters in self._here.items()))

    async def _stay(self, pool_id: UUID, waiters: Mapping[str, Waiter]) -> None:
        there = list(waiters)
        try:
            for start in range(0, len(there), _CHUNK):
                names = there[start : start + _CHUNK]
                await self._enter(pool_id, [waiters[name] for name in names if name in waiters])
                for name in names:
                    if name not in waiters:  # it left meanwhile, perhaps before it was said that it is there
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
