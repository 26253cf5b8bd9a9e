"""Wake-ups between the tasks of one process and between replicas. A wake-up is only a hint that there is work.

If a wake-up is lost, its loop or waiter notices the work after its usual interval.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from enum import StrEnum
from time import monotonic
from typing import Final
from uuid import uuid4

from redis.asyncio.client import PubSub
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeout

from freshdb_service.redis.connection import RedisConnection

_log = logging.getLogger(__name__)
_RECONNECT_SECONDS: Final = 0.5
_SILENCE_SECONDS: Final = 2.0


class WakeupReason(StrEnum):
    """Kinds of work for which loops are woken."""

    DIRTY = "dirty"
    DEMAND = "demand"
    TEMPLATE = "template"
    TOKENS = "tokens"


class Wakeups:
    """Events that are set by this process or by another replica."""

    def __init__(self, redis: RedisConnection) -> None:
        self._redis = redis
        self._name = uuid4().hex
        self.channel: Final = redis.key("wake")
        self._turns: dict[str, asyncio.Event] = {}
        self._work: defaultdict[WakeupReason, list[asyncio.Event]] = defaultdict(list)

    def subscribe(self, work: WakeupReason) -> asyncio.Event:
        """Return an event that is set whenever there is work of this kind."""
        event = asyncio.Event()
        self._work[work].append(event)
        return event

    def unsubscribe(self, work: WakeupReason, event: asyncio.Event) -> None:
        """Remove an event."""
        self._work[work].remove(event)

    def nudge(self, work: WakeupReason) -> None:
        """Wake the loops of this process."""
        for event in self._work[work]:
            event.set()

    async def announce(self, work: WakeupReason) -> None:
        """Wake the loops of every replica. If Redis is unavailable, only those of this one are woken."""
        self.nudge(work)
        try:
            await self._redis.client.publish(self.channel, f"work {work} {self._name}")
        except (RedisError, OSError) as error:
            _log.warning("cannot wake other replicas: %s", error)

    def turn_of(self, waiter: str) -> asyncio.Event:
        """Return the event that is set when a waiter of this process is the head. :meth:`forget` removes it."""
        return self._turns.setdefault(waiter, asyncio.Event())

    def forget(self, waiter: str) -> None:
        """Remove the event of a waiter."""
        self._turns.pop(waiter, None)

    def wake(self, waiter: str) -> None:
        """Wake a waiter, if it belongs to this process."""
        if event := self._turns.get(waiter):
            event.set()

    async def listen(self) -> None:
        """Receive the wake-ups of other replicas, until cancelled."""
        while True:
            try:
                async with self._redis.client.pubsub(ignore_subscribe_messages=True) as subscription:
                    await subscription.subscribe(self.channel)
                    await self._receive(subscription)
            except (RedisError, OSError) as error:
                _log.warning("lost the connection that carries wake-ups: %s", error)
                await asyncio.sleep(_RECONNECT_SECONDS)

    async def _receive(self, subscription: PubSub) -> None:
        """Receive messages until a ping gets no answer."""
        asked = False
        while True:
            began = monotonic()
            message = await subscription.get_message(timeout=_SILENCE_SECONDS)
            # ``None`` may also come at once, for messages that the library handles itself, such as the answer to a ping.
            silent = message is None and monotonic() - began >= _SILENCE_SECONDS / 2
            if silent and asked:
                raise RedisTimeout("no answer to a ping")
            if silent:
                await subscription.ping()
            asked = silent
            if message is not None and message["type"] == "message":
                self._take(str(message["data"]))

    def _take(self, message: str) -> None:
        kind, _, name = message.partition(" ")
        if kind == "turn":
            self.wake(name)
            return
        work, _, sender = name.partition(" ")
        if kind == "work" and sender != self._name and work in set(WakeupReason):
            self.nudge(WakeupReason(work))
