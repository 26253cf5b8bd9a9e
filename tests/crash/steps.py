"""Count the writes of a process to PostgreSQL and Redis, and kill the process instead of one of them.

A *step* is one write to one of their sockets: a statement, a script, a commit, the first message of a connection. A process
that is killed before step ``n`` has received every answer to the steps before it, and the servers know nothing of ``n``. A
kill after ``n`` was sent and before its answer was read leaves the same state as a kill before ``n + 1``, because the
servers execute everything that they receive.
"""

from __future__ import annotations

import os
import signal
from asyncio import selector_events
from collections.abc import Callable, Iterable
from typing import Any


class Steps:
    """Steps of this process from now on. It requires one of asyncio's own event loops."""

    def __init__(self) -> None:
        self.taken = 0
        self._counting = False
        self._kill_at: int | None = None
        self._writing = False

    def count(self, kill_at: int | None) -> None:
        """Begin to count. The process is killed instead of taking step ``kill_at``."""
        self._counting, self._kill_at = True, kill_at

    def stop(self) -> None:
        """Stop counting: later writes do not belong to the scenario."""
        self._counting = False

    def watch(self) -> None:
        """Count every write of every socket."""
        transport: Any = selector_events._SelectorSocketTransport  # type: ignore[attr-defined]
        for name in ("write", "writelines"):
            setattr(transport, name, self._counted(getattr(transport, name)))

    def _counted(self, write: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
        def counted(transport: object, data: bytes | Iterable[bytes]) -> None:
            outermost = not self._writing  # one of the two methods calls the other
            if outermost:
                self._step()
                self._writing = True
            try:
                write(transport, data)
            finally:
                self._writing = not outermost

        return counted

    def _step(self) -> None:
        if not self._counting:
            return
        self.taken += 1
        if self.taken == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
