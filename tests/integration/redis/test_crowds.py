"""Many heartbeats, waiters and followers of events at a time. Their cost grows less than their number."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID, uuid4

import pytest

from freshdb_service.errors import BackendUnavailable
from freshdb_service.redis import queue as queue_module
from freshdb_service.redis.connection import RedisConnection
from freshdb_service.redis.deadlines import Deadlines, Refusal, Renewal
from freshdb_service.redis.events import Event, Events
from freshdb_service.redis.queue import Queue
from freshdb_service.redis.wakeups import Wakeups
from tests.limits import LIMIT_SECONDS

POOL = uuid4()
MANY = 300


async def calls(redis: RedisConnection, command: str) -> int:
    """Return how many times Redis has run a command."""
    stats = await redis.client.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])


async def admitted(deadlines: Deadlines, principal: str = "ci", *, ttl_seconds: float = 60) -> UUID:
    lease = uuid4()
    if (run := await deadlines.forgotten_in_run()) is not None:
        await deadlines.restore([], run_id=run)
    await deadlines.admit(
        POOL, [lease], ttl_seconds=ttl_seconds, max_ttl_seconds=600, principal=principal, at_head=True
    )
    return lease


async def presence(redis: RedisConnection) -> dict[str, float]:
    """Return the time at which each waiter's presence expires."""
    there: Any = await redis.client.zrange(redis.key("presence", POOL), 0, -1, withscores=True)
    return {str(name): float(until) for name, until in there}


async def test_simultaneous_heartbeats_share_calls_and_get_their_own_answers(redis: RedisConnection) -> None:
    deadlines = Deadlines(redis)
    mine = [await admitted(deadlines, ttl_seconds=100 + number) for number in range(MANY)]
    theirs, unknown = await admitted(deadlines, "mallory"), uuid4()
    before = await calls(redis, "evalsha")
    answers = await asyncio.gather(
        *(deadlines.renew(lease, ttl_seconds=None, principal="ci") for lease in [*mine, theirs, unknown])
    )
    granted = [answer.ttl_seconds for answer in answers if isinstance(answer, Renewal)]
    assert granted == pytest.approx([100 + number for number in range(MANY)], abs=1)
    assert answers[MANY:] == [Refusal.FOREIGN, Refusal.UNKNOWN]
    assert await calls(redis, "evalsha") - before <= 3


async def test_cancelled_heartbeat_does_not_affect_others(redis: RedisConnection) -> None:
    deadlines = Deadlines(redis)
    one, two = await admitted(deadlines), await admitted(deadlines)
    gone = asyncio.create_task(deadlines.renew(one, ttl_seconds=30, principal="ci"))
    stays = asyncio.create_task(deadlines.renew(two, ttl_seconds=30, principal="ci"))
    await asyncio.sleep(0)  # both calls are pending, and no command is sent yet
    gone.cancel()
    assert isinstance(await stays, Renewal)
    assert isinstance(await deadlines.renew(one, ttl_seconds=30, principal="ci"), Renewal)


async def test_every_heartbeat_fails_while_redis_is_unavailable(redis_url: str) -> None:
    del redis_url
    nowhere = RedisConnection("redis://127.0.0.1:1/0", uuid4())
    deadlines = Deadlines(nowhere)
    answers = await asyncio.gather(
        *(deadlines.renew(uuid4(), ttl_seconds=1, principal="ci") for _ in range(20)), return_exceptions=True
    )
    assert [type(answer) for answer in answers] == [BackendUnavailable] * 20
    assert len({id(answer) for answer in answers}) == 20
    await nowhere.close()


async def test_long_queue_is_refreshed_in_chunks(
    redis: RedisConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_module, "PRESENCE_SECONDS", LIMIT_SECONDS)
    monkeypatch.setattr(queue_module, "REFRESH_SECONDS", 0.05)
    queue = Queue(redis, Wakeups(redis))
    stopping = asyncio.Event()
    staying = asyncio.create_task(queue.stay(stopping))
    async with AsyncExitStack() as stack:
        waiters = [await stack.enter_async_context(queue.waiting(POOL, n + 1)) for n in range(MANY)]
        before = await presence(redis)
        async with asyncio.timeout(LIMIT_SECONDS):
            while True:  # until each presence was refreshed once more
                now = await presence(redis)
                if set(now) == {waiter.name for waiter in waiters} and all(
                    now[name] > then for name, then in before.items()
                ):
                    break
        turns = [asyncio.create_task(waiter.turn(60)) for waiter in waiters[1:]]
        stopping.set()
        assert not any(await asyncio.gather(*turns))  # no waiter waits in a process that stops
    staying.cancel()
    await asyncio.gather(staying, return_exceptions=True)


async def _until_seen(events: Events, since: str, last: str, stop: asyncio.Event) -> list[Event]:
    seen: list[Event] = []
    async for batch in events.follow(since, stop=stop):
        seen += batch
        if seen and seen[-1].kind == last:
            break
    return seen


@pytest.fixture
async def events(redis: RedisConnection) -> Events:
    return Events(redis)


async def test_many_followers_share_one_query(redis: RedisConnection, events: Events) -> None:
    stop = asyncio.Event()
    start = await events.position("$")
    followers = [asyncio.create_task(_until_seen(events, start, "last", stop)) for _ in range(MANY)]
    async with asyncio.timeout(LIMIT_SECONDS):
        while events._seen_after is None:
            await asyncio.sleep(0.01)
        before = await calls(redis, "xread")
        for number in range(10):
            events.emit(f"number {number}")
        events.emit("last")
        await events.flush()
        seen = await asyncio.gather(*followers)
    assert {tuple(event.kind for event in one) for one in seen} == {
        (*(f"number {number}" for number in range(10)), "last")
    }
    assert await calls(redis, "xread") - before < MANY / 3


async def test_late_or_slow_follower_misses_no_event(redis: RedisConnection, events: Events) -> None:
    stop = asyncio.Event()
    for number in range(250):  # more than one read returns
        events.emit(f"old {number}")
    await events.flush()
    kept = asyncio.create_task(_until_seen(events, await events.position("$"), "last", stop))
    async with asyncio.timeout(LIMIT_SECONDS):
        while events._seen_after is None:
            await asyncio.sleep(0.01)
        late = asyncio.create_task(_until_seen(events, "0", "last", stop))
        events.emit("last")
        await events.flush()
        assert [event.kind for event in await late] == [*(f"old {number}" for number in range(250)), "last"]
        assert [event.kind for event in await kept] == ["last"]
    del redis


async def test_followers_fail_while_redis_is_unavailable_and_can_continue(redis: RedisConnection) -> None:
    nowhere = Events(RedisConnection("redis://127.0.0.1:1/0", uuid4()))
    with pytest.raises(BackendUnavailable):
        await _until_seen(nowhere, "5-0", "last", asyncio.Event())
    del redis
