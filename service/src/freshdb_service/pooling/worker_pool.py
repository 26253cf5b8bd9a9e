"""Bounded pool of background tasks."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from contextvars import Context

from freshdb_service.errors import BackendUnavailable

_log = logging.getLogger(__name__)


class WorkerPool:
    """Runs up to ``size`` tasks at once. It has no free slot once ``stopping`` is set."""

    def __init__(self, size: int, stopping: asyncio.Event) -> None:
        self._size = size
        self._stopping = stopping
        self._running: set[asyncio.Task[None]] = set()
        self._reserved = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def free(self) -> int:
        """Number of tasks that can be submitted now."""
        return 0 if self._stopping.is_set() else max(0, self._size - len(self._running) - self._reserved)

    def submit(self, work: Coroutine[object, object, None], context: Context | None = None) -> None:
        """Start one task. The caller ensures that a slot is free or reserved."""
        task = asyncio.create_task(work, context=context)
        self._running.add(task)
        task.add_done_callback(self._done)

    @asynccontextmanager
    async def reserved(self, wait_seconds: float = 0.0) -> AsyncIterator[bool]:
        """Reserve a slot for a task that the block may submit; the block gets whether there is one.

        If no slot is free, wait up to ``wait_seconds``. Waiters get slots in the order of their arrival, and before tasks
        that no caller waits for.
        """
        reserved = await self._reserve(wait_seconds)
        try:
            yield reserved
        finally:
            if reserved:
                self._cancel_reservation()

    async def _reserve(self, wait_seconds: float) -> bool:
        if self.free:
            self._reserved += 1
            return True
        if self._stopping.is_set():
            return False
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await asyncio.wait({turn}, timeout=wait_seconds)
        except asyncio.CancelledError:
            if turn.done():
                self._cancel_reservation()
            raise
        finally:
            if not turn.done():
                self._waiting.remove(turn)
        return turn.done()

    def _cancel_reservation(self) -> None:
        self._reserved -= 1
        self._reserve_for_waiters()

    def _reserve_for_waiters(self) -> None:
        while self._waiting and self.free:
            self._reserved += 1
            self._waiting.popleft().set_result(None)

    async def slot_freed(
        self, wake: asyncio.Event | None = None, *, within_seconds: float | None = None
    ) -> bool:
        """Wait until a task ends, ``wake`` is set, or the time has passed; return ``False`` if no task is running."""
        if not self._running:
            return False
        waits = [asyncio.create_task(wake.wait())] if wake is not None and self.free else []
        try:
            await asyncio.wait(
                {*self._running, *waits}, timeout=within_seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for wait in waits:
                wait.cancel()
        return True

    async def finish(self) -> None:
        """Wait until no task is running."""
        while self._running:
            await asyncio.wait(set(self._running))

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._reserve_for_waiters()
        error = None if task.cancelled() else task.exception()
        if isinstance(error, BackendUnavailable):  # its claim expires, and another worker takes it
            _log.warning("task ended early: %s", error)
        elif error is not None:
            _log.error("task failed", exc_info=error)
