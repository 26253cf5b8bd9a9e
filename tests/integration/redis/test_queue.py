from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from freshdb_service.redis import queue as queue_module
from freshdb_service.redis.connection import RedisConnection
from freshdb_service.redis.deadlines import Admission, Deadlines
from freshdb_service.redis.queue import Queue, Waiter
from freshdb_service.redis.wakeups import WakeupReason, Wakeups
from tests.limits import LIMIT_SECONDS

POOL = uuid4()


class Replica:
    """One replica's wakeups and queue."""

    def __init__(self, redis: RedisConnection) -> None:
        self.redis = redis
        self.wakeups = Wakeups(redis)
        self.queue = Queue(redis, self.wakeups)
        self.deadlines = Deadlines(redis)
        self.tasks = [
            asyncio.create_task(self.wakeups.listen()),
            asyncio.create_task(self.queue.stay(asyncio.Event())),
        ]

    async def ask(self) -> Admission:
        return await self.deadlines.admit(POOL, [uuid4()], ttl_seconds=60, max_ttl_seconds=60, principal="ci")

    async def die(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@pytest.fixture(autouse=True)
def presence_seconds(monkeypatch: pytest.MonkeyPatch) -> float:
    """Presences outlast the test. To expire one, a test moves it into the past."""
    monkeypatch.setattr(queue_module, "PRESENCE_SECONDS", LIMIT_SECONDS)
    return LIMIT_SECONDS


async def die_out(redis: RedisConnection, waiter: Waiter) -> None:
    """Expire the presence of a waiter, as if it had not been refreshed for the whole time."""
    assert await redis.client.zadd(redis.key("presence", POOL), {waiter.name: 1}, ch=True) == 1


async def redis_ms(redis: RedisConnection) -> int:
    seconds, microseconds = await redis.client.time()
    return int(seconds) * 1000 + int(microseconds) // 1000


async def until_subscribed(redis: RedisConnection, channel: str, number: int) -> None:
    async with asyncio.timeout(LIMIT_SECONDS):
        while dict(await redis.client.pubsub_numsub(channel)).get(channel, 0) < number:
            await asyncio.sleep(0.005)


@pytest.fixture
async def replicas(redis: RedisConnection) -> AsyncIterator[tuple[Replica, Replica]]:
    one, two = Replica(redis), Replica(redis)
    await until_subscribed(redis, one.wakeups.channel, 2)
    yield one, two
    await one.die()
    await two.die()


async def test_caller_is_admitted_while_the_queue_is_empty(replicas: tuple[Replica, Replica]) -> None:
    assert (await replicas[0].ask()).admitted


async def test_caller_is_queued_while_others_wait(replicas: tuple[Replica, Replica]) -> None:
    one, two = replicas
    async with one.queue.waiting(POOL, 1):
        admission = await two.ask()
        assert not admission.admitted
        assert await two.deadlines.expiry([uuid4()]) == [None]
    assert (await two.ask()).admitted


async def test_waiter_that_leaves_during_a_refresh_has_left(
    redis: RedisConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise no other waiter would be first in the queue until the presence expires."""
    queue, run = Queue(redis, Wakeups(redis)), redis.run
    refreshing, left = asyncio.Event(), asyncio.Event()

    async def late(script: str, *said: Any) -> object:  # noqa: ANN401 - as the method has them
        if script == "queue_enter":
            refreshing.set()
            await left.wait()
        return await run(script, *said)

    async with queue.waiting(POOL, 1), asyncio.timeout(LIMIT_SECONDS):
        monkeypatch.setattr(redis, "run", late)
        staying = asyncio.create_task(queue._stay(POOL, queue._here[POOL]))
        await refreshing.wait()
    left.set()
    await staying
    assert (await queue.place(POOL)).waiting == 0


async def test_waiters_are_woken_in_the_order_of_tickets_across_replicas(
    replicas: tuple[Replica, Replica],
) -> None:
    served: list[int] = []
    entered = asyncio.Semaphore(0)

    async def stand(replica: Replica, ticket: int) -> None:
        async with replica.queue.waiting(POOL, ticket) as waiter:
            entered.release()
            await go.wait()
            assert await waiter.turn(LIMIT_SECONDS)
            served.append(ticket)

    go = asyncio.Event()
    # the order of entry differs from the order of tickets
    tickets = [7, 3, 9, 1, 8, 2, 6, 4, 10, 5]
    crowd = [asyncio.create_task(stand(replicas[n % 2], ticket)) for n, ticket in enumerate(tickets)]
    for _ in tickets:
        await entered.acquire()
    for replica in replicas:  # a waiter that was first until others entered has been notified already
        for waiter in replica.queue._here[POOL].values():
            waiter._turn.clear()
    go.set()
    await replicas[0].queue.wake(POOL)
    await asyncio.gather(*crowd)
    assert served == sorted(tickets)


async def test_position_counts_from_the_head(replicas: tuple[Replica, Replica]) -> None:
    one, two = replicas
    async with one.queue.waiting(POOL, 1, wanted=3), two.queue.waiting(POOL, 2) as second:
        place = await one.queue.place(POOL, second)
        assert (place.position, place.waiting, place.wanted) == (2, 2, 4)
    empty_queue = await one.queue.place(POOL)
    assert (empty_queue.position, empty_queue.waiting, empty_queue.wanted, empty_queue.age_seconds) == (
        0,
        0,
        0,
        0.0,
    )


async def test_places_of_all_queues_equal_those_of_each(replicas: tuple[Replica, Replica]) -> None:
    """There are more queues than one call to Redis covers."""
    queue = replicas[0].queue
    pools = [uuid4() for _ in range(250)]
    async with AsyncExitStack() as stack:
        for number in (0, 99, 100, 249):
            for wanted in range(1, number % 7 + 2):
                await stack.enter_async_context(queue.waiting(pools[number], wanted, wanted=wanted))
        found = await queue.places(pools)
        assert [(one.position, one.waiting, one.wanted) for one in found] == [
            (0, alone.waiting, alone.wanted) for alone in [await queue.place(pool) for pool in pools]
        ]
        assert {number: found[number].waiting for number in range(250) if found[number].waiting} == {
            number: number % 7 + 1 for number in (0, 99, 100, 249)
        }
        assert all(one.age_seconds > 0 for one in found if one.waiting)
    assert await queue.places([]) == []


async def test_queue_age_is_that_of_its_present_head(replicas: tuple[Replica, Replica]) -> None:
    one, two = replicas
    now = round(time.time() * 1_000_000)
    await one.redis.client.zadd(one.redis.key("queue", POOL), {"dead": now - 900_000_000})
    async with (
        one.queue.waiting(POOL, now - 60_000_000),
        two.queue.waiting(POOL, now - 90_000_000),
    ):
        age = (await one.queue.place(POOL)).age_seconds
        assert 90 <= age <= 90 + time.time() - now / 1_000_000
    assert (await one.queue.place(POOL)).age_seconds == 0


async def test_waiters_of_a_dead_replica_are_skipped(
    redis: RedisConnection, replicas: tuple[Replica, Replica], presence_seconds: float
) -> None:
    one, two = replicas
    dead = Waiter(POOL, 1, 1, asyncio.Event(), "of a replica that was killed")
    before = await redis_ms(redis)
    await one.queue._enter(POOL, [dead])  # and never again
    until = await redis.client.zscore(redis.key("presence", POOL), dead.name)
    assert until is not None
    assert before <= until - presence_seconds * 1000 <= await redis_ms(redis)
    async with two.queue.waiting(POOL, 2) as waiter:
        assert (await two.queue.place(POOL, waiter)).position == 2
        await die_out(redis, dead)
        assert await waiter.turn(LIMIT_SECONDS)
        assert (await two.queue.place(POOL, waiter)).position == 1


async def test_waiters_of_a_dead_replica_are_removed(
    redis: RedisConnection, replicas: tuple[Replica, Replica]
) -> None:
    one, two = replicas
    dead = Waiter(POOL, 1, 1, asyncio.Event(), "of a replica that was killed")
    await one.queue._enter(POOL, [dead], who='["ann", {}]')
    keys = [redis.key(part, POOL) for part in ("queue", "presence", "wanted", "who")]
    for key in keys:
        assert 0 < await redis.client.ttl(key) <= 60  # in case no other caller ever comes
    assert not (await two.ask()).admitted
    await die_out(redis, dead)
    assert (await two.ask()).admitted
    assert await redis.client.exists(*keys) == 0


async def test_lost_waiter_returns_to_its_place(
    redis: RedisConnection, replicas: tuple[Replica, Replica]
) -> None:
    one, two = replicas
    async with one.queue.waiting(POOL, 1) as first:
        await redis.client.flushdb()
        async with two.queue.waiting(POOL, 2) as second, asyncio.timeout(LIMIT_SECONDS):
            while (await one.queue.place(POOL, first)).position != 1:
                await asyncio.sleep(0.01)
            assert (await two.queue.place(POOL, second)).position == 2


async def test_announced_work_wakes_the_loops_of_other_replicas(
    replicas: tuple[Replica, Replica],
) -> None:
    one, two = replicas
    dirty = two.wakeups.subscribe(WakeupReason.DIRTY)
    demand = two.wakeups.subscribe(WakeupReason.DEMAND)
    await one.wakeups.announce(WakeupReason.DIRTY)
    async with asyncio.timeout(LIMIT_SECONDS):
        await dirty.wait()
    assert not demand.is_set()


async def test_standing_returns_principals_times_and_numbers(
    replicas: tuple[Replica, Replica],
) -> None:
    one, two = replicas
    ticket = 1_700_000_000_000_000
    long = "x" * 5_000
    async with (
        one.queue.waiting(POOL, ticket + 1, principal="ann", holder={"test": "a.py::one", "long": long}),
        two.queue.waiting(POOL, ticket, wanted=3, principal="bob"),
    ):
        await one.queue._stay(
            POOL, one.queue._here[POOL]
        )  # a refresh of the presence keeps principal and holder
        first, second = await two.queue.standing(POOL, most=10)
        assert (first.principal, first.wanted, first.since) == (
            "bob",
            3,
            datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC),
        )
        assert first.waited_seconds > second.waited_seconds - 1 > 0
        assert second.holder["test"] == "a.py::one"
        assert len(second.holder["long"]) == 200
        assert [standing.principal for standing in await one.queue.standing(POOL, most=1)] == ["bob"]
    assert await one.queue.standing(POOL, most=10) == []


async def test_lost_waiter_is_shown_without_a_principal(
    redis: RedisConnection, replicas: tuple[Replica, Replica]
) -> None:
    queue = replicas[0].queue
    async with queue.waiting(POOL, 1, principal="ann"):
        await redis.client.flushdb()
        await queue._stay(POOL, queue._here[POOL])
        assert [(one.principal, one.holder) for one in await queue.standing(POOL, most=10)] == [("", {})]


async def test_empty_queue_has_no_keys(redis: RedisConnection, replicas: tuple[Replica, Replica]) -> None:
    async with replicas[0].queue.waiting(POOL, 1):
        assert await redis.client.keys(redis.key("*"))
    assert await redis.client.keys(redis.key("*")) == []
