"""The end of the background work."""

from __future__ import annotations

import asyncio

import pytest

from freshdb_service.maintenance import loop


async def test_a_task_that_loses_a_cancellation_is_cancelled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_CANCEL_AGAIN_SECONDS", 0.01)
    lost = asyncio.Event()

    async def deaf_once() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            lost.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(deaf_once())
    await asyncio.sleep(0)
    await loop.end([task])
    assert lost.is_set()
    assert task.cancelled()


async def test_a_slow_end_is_logged_with_the_names_of_the_tasks(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loop, "_SLOW_SECONDS", 0.01)

    async def until_logged() -> None:
        while not caplog.records:
            await asyncio.sleep(0)

    await loop.finish(asyncio.create_task(until_logged(), name="reaper"))
    assert "reaper" in caplog.records[0].getMessage()
