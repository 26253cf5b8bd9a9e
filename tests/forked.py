"""Processes that need not import anything any more: forked from one that has imported the service, which takes seconds."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

PROCESSES: Final = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["freshdb_service.serve", "tests.crash.child"])


class ForkedService:
    """``python -m freshdb_service`` with these arguments, as far as ``subprocess.Popen``'s caller can tell."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self._process = PROCESSES.Process(target=_serve, args=(list(arguments), dict(environment), str(log)))
        self._process.start()
        assert self._process.pid is not None
        self.pid: Final = self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code, or the signal that ended it, less than 0; ``None`` while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Look whether it has ended."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("freshdb_service", timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it without a warning."""
        self.send_signal(signal.SIGKILL)


def _serve(arguments: list[str], environment: dict[str, str], log: str) -> None:
    os.setsid()
    for name, flags, streams in (("/dev/null", os.O_RDONLY, [0]), (log, os.O_WRONLY | os.O_APPEND, [1, 2])):
        opened = os.open(name, flags)
        for stream in streams:
            os.dup2(opened, stream)
        os.close(opened)
    os.environ.clear()
    os.environ.update(environment)
    # The interpreter that this was forked from did not see it.
    if environment.get("PYTHONWARNINGS") == "error":
        warnings.simplefilter("error")
    from freshdb_service.serve import main  # noqa: PLC0415 - it is there already

    sys.exit(main(arguments))
