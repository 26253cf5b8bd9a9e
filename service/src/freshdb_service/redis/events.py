"""What happened, as a stream that anybody can follow: every transition, newest kept, in the order of its writing.

Events are written behind the work, in batches, by a task of their own: nobody waits for them, and a process that dies may
take the last few with it. They are a report, never the fact.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import takewhile
from time import monotonic
from typing import Final, cast

from freshdb_service.errors import BackendUnavailable
from freshdb_service.redis.connection import RedisConnection, translated

_KEPT: Final = 10_000
_PENDING: Final = 10_000
_FLUSH_SECONDS: Final = 0.05
_LOOK_SECONDS: Final = 0.25
_RECENT: Final = 2_000
_AT_ONCE: Final = 100
_SEARCHED_AT_ONCE: Final = 500

_Entries = list[tuple[str, Mapping[str, str]]]
_Streams = list[tuple[str, _Entries]]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """One thing that happened; ``id`` orders events and can be given as ``since``."""

    id: str
    kind: str
    data: Mapping[str, object]


class Events:
    """The stream of this installation."""

    def __init__(self, redis: RedisConnection) -> None:
        self._redis = redis
        self._key = redis.key("events")
        self._pending: deque[tuple[str, dict[str, object]]] = deque(maxlen=_PENDING)
        self._some = asyncio.Event()
        self._followers = 0
        self._look: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._recent: deque[Event] = deque()
        self._seen_after: str | None = None
        """Every event after this one is among the recent ones."""

    def emit(self, kind: str, **data: object) -> None:
        """Note that something happened; returns at once."""
        self._pending.append((kind, data))
        self._some.set()

    async def flush(self) -> None:
        """Write what is pending."""
        batch = list(self._pending)
        self._pending.clear()
        if not batch:
            return
        async with translated():
            pipeline = self._redis.client.pipeline(transaction=False)
            for kind, data in batch:
                written = json.dumps(data, default=str)
                pipeline.xadd(self._key, {"kind": kind, "data": written}, maxlen=_KEPT, approximate=True)
            await pipeline.execute()

    async def write(self) -> None:
        """Write events as they come, for as long as the process lives."""
        while True:
            await self._some.wait()
            self._some.clear()
            try:
                await self.flush()
            except BackendUnavailable as error:
                _log.warning("events were lost: %s", error)
            await asyncio.sleep(_FLUSH_SECONDS)

    async def read(self, since: str, *, most: int = _AT_ONCE) -> list[Event]:
        """Events after ``since`` (``0`` for all that are kept)."""
        async with translated():
            answer = cast("_Streams", await self._redis.client.xread({self._key: since}, count=most))
        return [_event(identifier, fields) for _, entries in answer or [] for identifier, fields in entries]

    async def newest(
        self, wanted: Callable[[Event], bool], *, most: int, before: str | None = None
    ) -> list[Event]:
        """The newest events that are wanted, the newest first; ``before`` is the id of an event that was seen already."""
        found: list[Event] = []
        last = "+" if before is None else f"({before}"
        while len(found) < most:
            async with translated():
                entries = cast(
                    "_Entries",
                    await self._redis.client.xrevrange(self._key, max=last, count=_SEARCHED_AT_ONCE),
                )
            events = [_event(identifier, fields) for identifier, fields in entries]
            found += [event for event in events if wanted(event)]
            if len(events) < _SEARCHED_AT_ONCE:
                break
            last = f"({events[-1].id}"
        return found[:most]

    async def position(self, since: str) -> str:
        """The position after which to follow: ``since``, or that of the newest event for ``$``."""
        if since != "$":
            return since
        async with translated():
            newest = cast("_Entries", await self._redis.client.xrevrange(self._key, count=1))
        return newest[0][0] if newest else "0"

    async def follow(
        self, position: str, *, stop: asyncio.Event, heartbeat_seconds: float = 15.0
    ) -> AsyncIterator[Sequence[Event]]:
        """Events after a position as they come, some at a time; none at all every so often, when nothing happens.

        However many follow, Redis is asked for news once: the look is common to all of them. Whoever reads so slowly that
        the news have gone by asks Redis alone.

        Raises:
            BackendUnavailable: Redis is away; following can begin again after the last event.
        """
        quiet_since = monotonic()
        with self._following():
            while not stop.is_set():
                batch = await self._after(position)
                if batch:
                    position, quiet_since = batch[-1].id, monotonic()
                    yield batch
                    continue
                if monotonic() - quiet_since >= heartbeat_seconds:
                    quiet_since = monotonic()
                    yield ()
                if self._look is not None and self._look.done():
                    await self._look
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_SECONDS * 4):
                        await self._news.wait()

    @contextmanager
    def _following(self) -> Iterator[None]:
        self._followers += 1
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._look_for_news())
        try:
            yield
        finally:
            self._followers -= 1

    async def _look_for_news(self) -> None:
        """See what is new for all who follow, for as long as somebody does."""
        self._recent.clear()
        self._seen_after = None
        newest = self._seen_after = await self.position("$")
        while self._followers:
            batch = await self.read(newest)
            if not batch:
                await asyncio.sleep(_LOOK_SECONDS)
                continue
            for event in batch:
                if len(self._recent) == _RECENT:
                    self._seen_after = self._recent.popleft().id
                self._recent.append(event)
            newest = batch[-1].id
            news, self._news = self._news, asyncio.Event()
            news.set()

    async def _after(self, position: str) -> Sequence[Event]:
        """What came after a position, as far as it is here by now."""
        if self._seen_after is None or _order(position) < _order(self._seen_after):
            return await self.read(position)
        later = list(takewhile(lambda event: _order(event.id) > _order(position), reversed(self._recent)))
        later.reverse()
        return later[:_AT_ONCE]


def _order(identifier: str) -> tuple[int, int]:
    milliseconds, _, number = identifier.partition("-")
    return int(milliseconds), int(number or 0)


def _event(identifier: str, fields: Mapping[str, str]) -> Event:
    milliseconds = int(identifier.partition("-")[0])
    at = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return Event(identifier, fields["kind"], {"at": at.isoformat(), **json.loads(fields["data"])})
