"""The event stream: one event per transition, in the order of writing. The newest are kept.

A background task writes events in batches, so that they delay no request. A process that dies may lose its last events. They
are a report, and nothing is decided by them.
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
_POLL_SECONDS: Final = 0.25
_RECENT: Final = 2_000
_AT_ONCE: Final = 100
_SEARCHED_AT_ONCE: Final = 500

_Entries = list[tuple[str, Mapping[str, str]]]
_Streams = list[tuple[str, _Entries]]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """An event. Its ``id`` gives the order, and can be passed as ``since``."""

    id: str
    kind: str
    data: Mapping[str, object]


class Events:
    """The event stream of this installation."""

    def __init__(self, redis: RedisConnection) -> None:
        self._redis = redis
        self._key = redis.key("events")
        self._pending: deque[tuple[str, dict[str, object]]] = deque(maxlen=_PENDING)
        self._some = asyncio.Event()
        self._followers = 0
        self._polling: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._recent: deque[Event] = deque()
        self._seen_after: str | None = None
        """All events after this id are in ``_recent``."""

    def emit(self, kind: str, **data: object) -> None:
        """Add an event to the next batch."""
        self._pending.append((kind, data))
        self._some.set()

    async def flush(self) -> None:
        """Write the pending events."""
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
        """Write events as they arrive, until cancelled."""
        while True:
            await self._some.wait()
            self._some.clear()
            try:
                await self.flush()
            except BackendUnavailable as error:
                _log.warning("events were lost: %s", error)
            await asyncio.sleep(_FLUSH_SECONDS)

    async def read(self, since: str, *, most: int = _AT_ONCE) -> list[Event]:
        """Return the events after ``since``. ``0`` returns all that are kept."""
        async with translated():
            answer = cast("_Streams", await self._redis.client.xread({self._key: since}, count=most))
        return [_event(identifier, fields) for _, entries in answer or [] for identifier, fields in entries]

    async def newest(
        self, wanted: Callable[[Event], bool], *, most: int, before: str | None = None
    ) -> list[Event]:
        """Return the newest events that match ``wanted``, newest first, before the event with the id ``before``."""
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
        """Return the id after which to follow: ``since``, or the id of the newest event if it is ``$``."""
        if since != "$":
            return since
        async with translated():
            newest = cast("_Entries", await self._redis.client.xrevrange(self._key, count=1))
        return newest[0][0] if newest else "0"

    async def follow(
        self, position: str, *, stop: asyncio.Event, heartbeat_seconds: float = 15.0
    ) -> AsyncIterator[Sequence[Event]]:
        """Yield events after a position in batches, and an empty batch after ``heartbeat_seconds`` without events.

        All followers share one query of Redis. A follower that is too slow for the shared events queries Redis itself.

        Raises:
            BackendUnavailable: Redis is unavailable. The caller can follow again after the last event.
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
                if self._polling is not None and self._polling.done():
                    await self._polling
                with suppress(TimeoutError):
                    async with asyncio.timeout(_POLL_SECONDS * 4):
                        await self._news.wait()

    @contextmanager
    def _following(self) -> Iterator[None]:
        self._followers += 1
        if self._polling is None or self._polling.done():
            self._polling = asyncio.create_task(self._poll())
        try:
            yield
        finally:
            self._followers -= 1

    async def _poll(self) -> None:
        """Read new events for all followers, while there are any."""
        self._recent.clear()
        self._seen_after = None
        newest = self._seen_after = await self.position("$")
        while self._followers:
            batch = await self.read(newest)
            if not batch:
                await asyncio.sleep(_POLL_SECONDS)
                continue
            for event in batch:
                if len(self._recent) == _RECENT:
                    self._seen_after = self._recent.popleft().id
                self._recent.append(event)
            newest = batch[-1].id
            news, self._news = self._news, asyncio.Event()
            news.set()

    async def _after(self, position: str) -> Sequence[Event]:
        """Return the known events after a position."""
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
