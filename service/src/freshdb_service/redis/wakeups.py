"""Wake-ups, between the tasks of one process and between replicas: a hint that there is something to do, never the fact.

A lost wake-up costs the interval of the loop or waiter that it was meant for, nothing else.
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
    """What a loop can be woken for."""

    DIRTY = "dirty"
    DEMAND = "demand"
    TEMPLATE = "template"
    TOKENS = "tokens"


class Wakeups:
    """Events by name, set from here or from another replica."""

    def __init__(self, redis: RedisConnection) -> None:
        self._redis = redis
        self._name = uuid4().hex
        self.channel: Final = redis.key("wake")
        self._turns: dict[str, asyncio.Event] = {}
        self._work: defaultdict[WakeupReason, list[asyncio.Event]] = defaultdict(list)

    def subscribe(self, work: WakeupReason) -> asyncio.Event:
        """An event that is set whenever there is work of this kind."""
        event = asyncio.Event()
        self._work[work].append(event)
        return event

    def unsubscribe(self, work: WakeupReason, event: asyncio.Event) -> None:
        """Forget an event."""
        self._work[work].remove(event)

    def nudge(self, work: WakeupReason) -> None:
        """Wake the loops of this process."""
        for event in self._work[work]:
            event.set()

    async def announce(self, work: WakeupReason) -> None:
        """Wake the loops of every replica; if Redis is away, only those of this one."""
        self.nudge(work)
        try:
            await self._redis.client.publish(self.channel, f"work {work} {self._name}")
        except (RedisError, OSError) as error:
            _log.warning("cannot wake other replicas: %s", error)

    def turn_of(self, waiter: str) -> asyncio.Event:
        """The event that says "you are first" to a waiter of this process; :meth:`forget` it."""
        return self._turns.setdefault(waiter, asyncio.Event())

    def forget(self, waiter: str) -> None:
        """The waiter has left."""
        self._turns.pop(waiter, None)

    def wake(self, waiter: str) -> None:
        """Tell a waiter, if it is of this process."""
        if event := self._turns.get(waiter):
            event.set()

    async def listen(self) -> None:
        """Pass on what other replicas announce, for as long as the process lives."""
        while True:
            try:
                async with self._redis.client.pubsub(ignore_subscribe_messages=True) as subscription:
                    await subscription.subscribe(self.channel)
                    await self._heard(subscription)
            except (RedisError, OSError) as error:
                _log.warning("lost the connection that carries wake-ups: %s", error)
                await asyncio.sleep(_RECONNECT_SECONDS)

    async def _heard(self, subscription: PubSub) -> None:
        """Take what is said, until nothing is heard though something was asked for."""
        asked = False
        while True:
            began = monotonic()
            message = await subscription.get_message(timeout=_SILENCE_SECONDS)
            # Nothing comes at once, too: for what the library keeps to itself, as the answer to a ping.
            silent = message is None and monotonic() - began >= _SILENCE_SECONDS / 2
            if silent and asked:
                raise RedisTimeout("no sign of life")
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
