"""Runs the loops: one round whenever a loop is woken, and at least once in its interval."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field

from freshdb_service.errors import BackendUnavailable
from freshdb_service.observability.metrics import Metrics

_log = logging.getLogger(__name__)
_CANCEL_AGAIN_SECONDS = 1.0
_SLOW_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Loop:
    """One loop: its round, the maximum pause between two rounds, and the event that starts a round earlier."""

    name: str
    run_once: Callable[[], Awaitable[None]]
    interval_seconds: float
    wake: asyncio.Event = field(default_factory=asyncio.Event)


async def run(loops: Sequence[Loop], stop: asyncio.Event, metrics: Metrics) -> None:
    """Run the loops until ``stop`` is set, and finish their current rounds."""
    async with asyncio.TaskGroup() as group:
        for loop in loops:
            group.create_task(_run(loop, stop, metrics), name=loop.name)


async def end(tasks: Collection[asyncio.Task[object]]) -> None:
    """Cancel tasks until they have ended, and ignore their results.

    A library can lose a cancellation that arrives in the moment of its own timeout. So this cancels again every second.
    """
    running = set(tasks)
    while running:
        for task in running:
            task.cancel()
        ended, running = await asyncio.wait(running, timeout=_CANCEL_AGAIN_SECONDS)
        await asyncio.gather(*ended, return_exceptions=True)


async def finish(task: asyncio.Task[None]) -> None:
    """Wait for the end of a task, and log at intervals what the process waits for."""
    while True:
        ended, _ = await asyncio.wait({task}, timeout=_SLOW_SECONDS)
        if ended:
            return await task
        names = sorted({one.get_name() for one in asyncio.all_tasks() if one is not asyncio.current_task()})
        _log.warning("stopping takes long: these tasks have not ended: %s", ", ".join(names))


async def _run(loop: Loop, stop: asyncio.Event, metrics: Metrics) -> None:
    while not stop.is_set():
        loop.wake.clear()
        try:
            await loop.run_once()
            metrics.loop_success.labels(loop.name).set_to_current_time()
        except BackendUnavailable as error:
            _log.warning("%s: %s", loop.name, error)
            metrics.loop_errors.labels(loop.name).inc()
        except Exception:  # noqa: BLE001 - a loop continues after any error of a round
            _log.exception("%s: a round failed", loop.name)
            metrics.loop_errors.labels(loop.name).inc()
        await _first_of(stop, loop.wake, timeout_seconds=loop.interval_seconds)


async def _first_of(*events: asyncio.Event, timeout_seconds: float) -> None:
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
