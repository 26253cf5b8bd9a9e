"""Order in which callers get worker slots."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from freshdb_service.pooling.worker_pool import WorkerPool

LONG = 60.0


async def reserved(workers: WorkerPool, wait_seconds: float, served: list[str], name: str) -> bool:
    async with workers.reserved(wait_seconds) as slot:
        if slot:
            served.append(name)
        return slot


async def all_waiting() -> None:
    """Let all tasks run until they wait."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_waiters_get_free_slots_in_order_and_before_unreserved_tasks() -> None:
    workers, done, served = WorkerPool(1, asyncio.Event()), asyncio.Event(), list[str]()

    async def work() -> None:
        await done.wait()

    workers.submit(work())
    waiting = [asyncio.create_task(reserved(workers, LONG, served, name)) for name in "abc"]
    await all_waiting()
    assert not served
    done.set()
    while len(served) < 3:
        assert not workers.free
        await asyncio.sleep(0)
    assert await asyncio.gather(*waiting) == [True] * 3
    assert served == ["a", "b", "c"]
    assert workers.free == 1


async def test_waiter_gets_no_slot_after_timeout_and_holds_none() -> None:
    workers = WorkerPool(1, asyncio.Event())
    async with workers.reserved() as held:
        assert held
        assert not await reserved(workers, 0.0, [], "at once")
        assert not await reserved(workers, 0.01, [], "soon")
    assert workers.free == 1


async def test_slot_of_cancelled_waiter_goes_to_the_next() -> None:
    workers, served = WorkerPool(1, asyncio.Event()), list[str]()
    async with workers.reserved():
        gone, late, third = (
            asyncio.create_task(reserved(workers, LONG, served, name)) for name in ("gone", "late", "third")
        )
        await all_waiting()
        gone.cancel()
        await all_waiting()
    late.cancel()  # it has the slot already, but has not resumed
    with suppress(asyncio.CancelledError):
        await late
    assert await third
    assert served == ["third"]
    assert workers.free == 1


async def test_no_slot_is_reserved_while_stopping() -> None:
    stopping = asyncio.Event()
    workers = WorkerPool(1, stopping)
    async with workers.reserved():
        waiting = asyncio.create_task(reserved(workers, 0.05, [], "waiting"))
        await all_waiting()
        stopping.set()
        assert not await reserved(workers, LONG, [], "late")  # no slot becomes free any more
    assert not await waiting
