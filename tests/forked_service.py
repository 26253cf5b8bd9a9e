"""Services in forked processes: forked from a process that has imported the service, because the import takes seconds."""

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
PROCESSES.set_forkserver_preload(
    ["freshdb_service.serve", "freshdb_service.replica", "alembic.command", "tests.crash.child"]
)


class ForkedService:
    """``python -m freshdb_service`` with these arguments, in place of ``subprocess.Popen``."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self._process = PROCESSES.Process(target=_serve, args=(list(arguments), dict(environment), str(log)))
        self._process.start()
        assert self._process.pid is not None
        self.pid: Final = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, or the negative number of the signal that ended it. ``None`` while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the exit code if it has ended."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it ends."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("freshdb_service", timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it (SIGKILL)."""
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
    # The interpreter that was forked did not know this variable.
    if environment.get("PYTHONWARNINGS") == "error":
        warnings.simplefilter("error")
    from freshdb_service.serve import main  # noqa: PLC0415 - imported already

    sys.exit(main(arguments))
