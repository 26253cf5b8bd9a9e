"""Who gets a hand of a crew, and when."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from freshdb_service.pooling.worker_pool import WorkerPool

LONG = 60.0


async def promised(workers: WorkerPool, wait_seconds: float, told: list[str], name: str) -> bool:
    async with workers.reserved(wait_seconds) as promise:
        if promise:
            told.append(name)
        return promise


async def asked() -> None:
    """Everybody who was begun has come to where they wait."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_who_waits_gets_the_next_hand_in_turn_and_before_work_that_nobody_waits_for() -> None:
    workers, done, told = WorkerPool(1, asyncio.Event()), asyncio.Event(), list[str]()

    async def work() -> None:
        await done.wait()

    workers.submit(work())
    waiting = [asyncio.create_task(promised(workers, LONG, told, name)) for name in "abc"]
    await asked()
    assert not told
    done.set()
    while len(told) < 3:
        assert not workers.free
        await asyncio.sleep(0)
    assert await asyncio.gather(*waiting) == [True] * 3
    assert told == ["a", "b", "c"]
    assert workers.free == 1


async def test_who_has_waited_long_enough_gets_none_and_keeps_none() -> None:
    workers = WorkerPool(1, asyncio.Event())
    async with workers.reserved() as held:
        assert held
        assert not await promised(workers, 0.0, [], "at once")
        assert not await promised(workers, 0.01, [], "soon")
    assert workers.free == 1


async def test_a_hand_of_somebody_who_has_gone_is_the_next_ones() -> None:
    workers, told = WorkerPool(1, asyncio.Event()), list[str]()
    async with workers.reserved():
        gone, late, there = (
            asyncio.create_task(promised(workers, LONG, told, name)) for name in ("gone", "late", "there")
        )
        await asked()
        gone.cancel()
        await asked()
    late.cancel()  # the hand is its own already, and it does not know yet
    with suppress(asyncio.CancelledError):
        await late
    assert await there
    assert told == ["there"]
    assert workers.free == 1


async def test_nobody_is_begun_with_once_it_stops() -> None:
    stopping = asyncio.Event()
    workers = WorkerPool(1, stopping)
    async with workers.reserved():
        waiting = asyncio.create_task(promised(workers, 0.05, [], "waiting"))
        await asked()
        stopping.set()
        assert not await promised(workers, LONG, [], "late")  # there is nothing to wait for
    assert not await waiting
