"""What happened, as a stream that anybody can follow: every transition, newest kept, in the order of its writing.

Events are written behind the work, in batches, by a task of their own: nobody waits for them, and a process that dies may
take the last few with it. They are a report, never the fact.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Final, cast

from freshdb_service.errors import BackendUnavailable
from freshdb_service.redis.connection import RedisConnection, translated

_KEPT: Final = 10_000
_PENDING: Final = 10_000
_FLUSH_SECONDS: Final = 0.05
_LOOK_SECONDS: Final = 0.25

_Entries = list[tuple[str, Mapping[str, str]]]
_Streams = list[tuple[str, _Entries]]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
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

    async def read(self, since: str, *, most: int = 500) -> list[Event]:
        """Events after ``since`` (``0`` for all that are kept)."""
        async with translated():
            answer = cast("_Streams", await self._redis.client.xread({self._key: since}, count=most))
        return [_event(identifier, fields) for _, entries in answer or [] for identifier, fields in entries]

    async def follow(
        self, since: str, *, stop: asyncio.Event, heartbeat_seconds: float = 15.0
    ) -> AsyncIterator[Event | None]:
        """Events after ``since`` as they come, until ``stop`` is set; ``None`` when nothing came for a while.

        Looks every so often instead of blocking in Redis, where each follower would keep a connection to itself.
        """
        position = since
        if since == "$":
            async with translated():
                newest = cast("_Entries", await self._redis.client.xrevrange(self._key, count=1))
            position = newest[0][0] if newest else "0"
        quiet_since = monotonic()
        while not stop.is_set():
            batch = await self.read(position)
            for event in batch:
                position = event.id
                yield event
            if batch:
                quiet_since = monotonic()
                continue
            if monotonic() - quiet_since >= heartbeat_seconds:
                quiet_since = monotonic()
                yield None
            await asyncio.sleep(_LOOK_SECONDS)


def _event(identifier: str, fields: Mapping[str, str]) -> Event:
    milliseconds = int(identifier.partition("-")[0])
    at = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return Event(identifier, fields["kind"], {"at": at.isoformat(), **json.loads(fields["data"])})
