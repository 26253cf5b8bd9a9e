"""Scripts and their connections: a connection that is closed, a script that is forgotten, a call that is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from uuid import uuid4

import pytest
import uvloop

from freshdb_service.errors import BackendUnavailable
from freshdb_service.redis import wakeups as signals_module
from freshdb_service.redis.connection import RedisConnection, translated
from freshdb_service.redis.deadlines import Deadline, Deadlines, Renewal
from freshdb_service.redis.wakeups import WakeupReason, Wakeups
from tests.faults.proxy import Proxy
from tests.limits import LIMIT_SECONDS

INSTALLATION = uuid4()


async def length(redis: RedisConnection) -> int:
    """Run a script, and return its result."""
    keys = [redis.key(part) for part in ("queue", "presence", "wanted")]
    answer = await redis.run("queue_wake", keys, ["nobody"])
    assert isinstance(answer, int)
    return answer


@asynccontextmanager
async def paused(redis: RedisConnection, milliseconds: int) -> AsyncIterator[None]:
    """For a while, Redis runs no script that may write."""
    await redis.client.client_pause(milliseconds, all=False)
    try:
        yield
    finally:
        await redis.client.client_unpause()


async def test_closed_connection_is_opened_again(redis: RedisConnection) -> None:
    assert await length(redis) == 0
    await redis.client.client_kill_filter(_type="normal", skipme=True)
    await redis.client.ping()  # the end of the other connection has been received by now
    assert await length(redis) == 0


@pytest.mark.parametrize("loop", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_reset_connection_is_opened_again(
    redis_url: str, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def ask() -> None:
        redis = RedisConnection(proxy.url, INSTALLATION, max_connections=1)
        for _ in range(3):
            assert await length(redis) == 0
            proxy.reset()
            [connection] = redis.client.connection_pool._available_connections
            async with asyncio.timeout(LIMIT_SECONDS):
                while connection._reader is not None and connection._reader.exception() is None:
                    await asyncio.sleep(0)
        await redis.close()

    with Proxy(redis_url) as proxy, asyncio.Runner(loop_factory=loop) as runner:
        runner.run(ask())


LEASE = uuid4()


@pytest.mark.parametrize("loop", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_heartbeat_whose_connection_is_reset_in_flight_is_sent_again(
    redis_url: str, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def ask() -> None:
        redis = RedisConnection(proxy.url, INSTALLATION)
        deadlines = Deadlines(redis)
        await deadlines.restore([Deadline(LEASE, "p", 60, 60)], run_id=await deadlines.forgotten_in_run())
        for _ in range(3):
            assert isinstance(await deadlines.renew(LEASE, ttl_seconds=None, principal="p"), Renewal)
            proxy.reset_next(1)
        await redis.close()

    with Proxy(redis_url) as proxy, asyncio.Runner(loop_factory=loop) as runner:
        runner.run(ask())


async def test_heartbeat_is_sent_again_only_once(redis_url: str) -> None:
    with Proxy(redis_url) as proxy:
        redis = RedisConnection(proxy.url, INSTALLATION)
        deadlines = Deadlines(redis)
        await deadlines.restore([Deadline(LEASE, "p", 60, 60)], run_id=await deadlines.forgotten_in_run())
        proxy.reset_next(2)
        with pytest.raises(BackendUnavailable):
            await deadlines.renew(LEASE, ttl_seconds=None, principal="p")
        await redis.close()


async def test_command_that_is_not_idempotent_is_not_sent_again(redis_url: str) -> None:
    with Proxy(redis_url) as proxy:
        redis = RedisConnection(proxy.url, INSTALLATION)
        assert await length(redis) == 0
        proxy.reset_next(1)
        with pytest.raises(BackendUnavailable):
            await length(redis)
        assert await length(redis) == 0
        await redis.close()


@pytest.mark.parametrize("loop", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_connection_reset_during_use_is_unavailable(
    redis_url: str, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def ask() -> None:
        redis = RedisConnection(redis_url, INSTALLATION)
        await redis.ping()
        [connection] = redis.client.connection_pool._available_connections
        assert connection._writer is not None
        connection._writer.transport.abort()

        async def use() -> None:
            async with translated():
                await connection.send_command("PING")
                await connection.read_response()

        with pytest.raises(BackendUnavailable, match="Redis does not answer"):
            await use()
        await redis.close()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(ask())


async def test_scripts_are_loaded_again_after_redis_lost_them(redis: RedisConnection) -> None:
    for _ in range(2):
        await redis.client.script_flush()
        assert await length(redis) == 0


async def test_failing_script_is_one_error_and_keeps_its_connection(redis: RedisConnection) -> None:
    assert await length(redis) == 0
    before = len(await redis.client.client_list())
    await redis.client.set(redis.key("queue"), "not a queue")
    for _ in range(3):
        with pytest.raises(BackendUnavailable, match="WRONGTYPE"):
            await length(redis)
    await redis.client.delete(redis.key("queue"))
    assert await length(redis) == 0
    assert len(await redis.client.client_list()) == before


async def test_answer_of_a_cancelled_call_is_not_given_to_another(redis: RedisConnection) -> None:
    queue = redis.key("queue")
    await redis.client.zadd(queue, {"somebody": 1})
    await redis.client.zadd(redis.key("presence"), {"somebody": 2**53})
    assert await length(redis) == 1
    async with paused(redis, round(LIMIT_SECONDS * 1000)):
        left = asyncio.create_task(length(redis))
        while not await blocked(redis):
            await asyncio.sleep(0)
        left.cancel()
        with suppress(asyncio.CancelledError):
            await left
    await redis.client.delete(queue)
    assert [await length(redis) for _ in range(5)] == [0] * 5


async def blocked(redis: RedisConnection) -> bool:
    """Return whether a client waits for a paused Redis."""
    info = await redis.client.info("clients")
    return int(info["blocked_clients"]) > 0


async def test_burst_of_calls_waits_for_connections(redis_url: str) -> None:
    redis = RedisConnection(redis_url, uuid4(), max_connections=2)
    try:
        others = len(await redis.client.client_list())
        assert await asyncio.gather(*(length(redis) for _ in range(200))) == [0] * 200
        assert len(await redis.client.client_list()) <= others + 2
    finally:
        await redis.close()


async def test_wait_for_a_connection_has_a_timeout(redis: RedisConnection, redis_url: str) -> None:
    impatient = RedisConnection(redis_url, uuid4(), max_connections=1, timeout_seconds=LIMIT_SECONDS)
    pool = impatient._pool
    try:
        assert await length(impatient) == 0
        [connection] = pool._available_connections
        assert pool.timeout == connection.socket_timeout == LIMIT_SECONDS
        pool.timeout = connection.socket_timeout = 0.2  # after the connection was established
        async with paused(redis, round(LIMIT_SECONDS * 1000)):
            answers = await asyncio.gather(*(length(impatient) for _ in range(20)), return_exceptions=True)
            assert {type(one) for one in answers} == {BackendUnavailable}
    finally:
        await impatient.close()


async def test_closed_pool_opens_no_connection(redis_url: str) -> None:
    redis = RedisConnection(redis_url, uuid4())
    connecting = asyncio.create_task(redis.ping())
    while not redis.client.connection_pool._in_use_connections:
        await asyncio.sleep(0)
    await redis.close()
    for late in (connecting, length(redis), redis.ping()):
        with pytest.raises(BackendUnavailable, match="has closed its connections"):
            await late
    pool = redis.client.connection_pool
    assert not [one for one in (*pool._available_connections, *pool._in_use_connections) if one.is_connected]


async def test_listener_detects_a_silent_connection(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals_module, "_SILENCE_SECONDS", 0.2)
    with Proxy(redis_url) as proxy:
        listening = RedisConnection(proxy.url, INSTALLATION, timeout_seconds=0.5)
        telling = RedisConnection(redis_url, INSTALLATION)
        ears, mouth = Wakeups(listening), Wakeups(telling)
        heard = ears.subscribe(WakeupReason.DIRTY)
        task = asyncio.create_task(ears.listen())
        try:
            await said(mouth, heard)
            proxy.drop_all()
            await asyncio.sleep(1)  # longer than the limit of silence and the detection
            proxy.pass_on()
            await said(mouth, heard)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await listening.close()
            await telling.close()


async def said(mouth: Wakeups, heard: asyncio.Event) -> None:
    """Announce until the other side is notified."""
    heard.clear()
    async with asyncio.timeout(LIMIT_SECONDS):
        while not heard.is_set():
            await mouth.announce(WakeupReason.DIRTY)
            await asyncio.sleep(0.02)
