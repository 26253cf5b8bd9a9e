"""Works on a bounded number of things at once."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager

from freshdb_service.errors import BackendUnavailable

_log = logging.getLogger(__name__)


class WorkerPool:
    """Works on up to ``size`` things at once, and on more as hands come free; on nothing more once ``stopping`` is set."""

    def __init__(self, size: int, stopping: asyncio.Event) -> None:
        self._size = size
        self._stopping = stopping
        self._at_work: set[asyncio.Task[None]] = set()
        self._promised = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def free(self) -> int:
        """How many more can be taken on now."""
        return 0 if self._stopping.is_set() else max(0, self._size - len(self._at_work) - self._promised)

    def take(self, work: Coroutine[object, object, None]) -> None:
        """Begin one piece of work."""
        task = asyncio.create_task(work)
        self._at_work.add(task)
        task.add_done_callback(self._done)

    @asynccontextmanager
    async def promised(self, wait_seconds: float = 0.0) -> AsyncIterator[bool]:
        """Keep a hand for work that may be taken on before the end of the block.

        If none is free, wait for one, up to so long: first come, first served, and before work that nobody waits for.
        Whether there is one is what the block gets.
        """
        promise = await self._promise(wait_seconds)
        try:
            yield promise
        finally:
            if promise:
                self._break_promise()

    async def _promise(self, wait_seconds: float) -> bool:
        if self.free:
            self._promised += 1
            return True
        if self._stopping.is_set():
            return False
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await asyncio.wait({turn}, timeout=wait_seconds)
        except asyncio.CancelledError:
            if turn.done():
                self._break_promise()
            raise
        finally:
            if not turn.done():
                self._waiting.remove(turn)
        return turn.done()

    def _break_promise(self) -> None:
        self._promised -= 1
        self._call()

    def _call(self) -> None:
        """Promise hands that are free to those who wait for one."""
        while self._waiting and self.free:
            self._promised += 1
            self._waiting.popleft().set_result(None)

    async def a_hand_free(
        self, wake: asyncio.Event | None = None, *, within_seconds: float | None = None
    ) -> bool:
        """Wait until a piece of work is done, ``wake`` is set, or the time is over; ``False`` when none is under way."""
        if not self._at_work:
            return False
        waits = [asyncio.create_task(wake.wait())] if wake is not None and self.free else []
        try:
            await asyncio.wait(
                {*self._at_work, *waits}, timeout=within_seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for wait in waits:
                wait.cancel()
        return True

    async def finish(self) -> None:
        """Wait until no work is under way."""
        while self._at_work:
            await asyncio.wait(set(self._at_work))

    def _done(self, task: asyncio.Task[None]) -> None:
        self._at_work.discard(task)
        self._call()
        error = None if task.cancelled() else task.exception()
        if isinstance(error, BackendUnavailable):  # what was claimed is taken over when the claim has run out
            _log.warning("work was given up: %s", error)
        elif error is not None:
            _log.error("work failed", exc_info=error)
