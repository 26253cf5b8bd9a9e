"""Works on a bounded number of things at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager

from freshdb_service.errors import BackendUnavailable

_log = logging.getLogger(__name__)


class Crew:
    """Works on up to ``size`` things at once, and on more as hands come free; on nothing more once ``stopping`` is set."""

    def __init__(self, size: int, stopping: asyncio.Event) -> None:
        self._size = size
        self._stopping = stopping
        self._at_work: set[asyncio.Task[None]] = set()
        self._promised = 0

    @property
    def free(self) -> int:
        """How many more can be taken on now."""
        return 0 if self._stopping.is_set() else max(0, self._size - len(self._at_work) - self._promised)

    def take(self, work: Coroutine[object, object, None]) -> None:
        """Begin one piece of work."""
        task = asyncio.create_task(work)
        self._at_work.add(task)
        task.add_done_callback(self._done)

    @contextmanager
    def promised(self) -> Iterator[bool]:
        """Keep a hand free, if there is one, for work that may be taken on before the end of the block."""
        promise = self.free > 0
        self._promised += promise
        try:
            yield promise
        finally:
            self._promised -= promise

    async def a_hand_free(self, wake: asyncio.Event | None = None) -> bool:
        """Wait until a piece of work is done (or ``wake`` is set); ``False`` when there is none under way."""
        if not self._at_work:
            return False
        waits = [asyncio.create_task(wake.wait())] if wake is not None and self.free else []
        try:
            await asyncio.wait({*self._at_work, *waits}, return_when=asyncio.FIRST_COMPLETED)
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
        error = None if task.cancelled() else task.exception()
        if isinstance(error, BackendUnavailable):  # what was claimed is taken over when the claim has run out
            _log.warning("work was given up: %s", error)
        elif error is not None:
            _log.error("work failed", exc_info=error)
