"""Runs the loops: one round whenever a loop is woken, and at least once in its interval."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from freshdb_service.errors import BackendUnavailable
from freshdb_service.observability.metrics import Metrics

_log = logging.getLogger(__name__)


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
