"""A test run leaves no process and no server, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.limits import LIMIT_SECONDS
from tests.runs import RUN_VARIABLE

CHECKOUT = Path(__file__).parents[2]


def left_of(run: str) -> Iterator[str]:
    """The processes of a run, by the variable that they inherit or by the lock that servers hold."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            held = [file.path for file in process.open_files() if file.path.endswith("running.lock")]
            own = Path(run).name.rpartition("-")[2]
            if process.environ().get(RUN_VARIABLE) == run or any(own in path for path in held):
                yield f"{process.pid} {process.cmdline()}"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_run_that_is_killed_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    held = tmp_path / "held"
    command = [sys.executable, "-m", "pytest", "-q", "-n", "1", "-p", "no:cacheprovider", "tests/run/held.py"]
    with subprocess.Popen(
        command,
        cwd=CHECKOUT,
        env={**os.environ, "HELD": str(held)},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    ) as inner:
        try:
            deadline = time.monotonic() + LIMIT_SECONDS
            while not held.exists():
                assert inner.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
            run = held.read_text()
            found = list(left_of(run))
            assert sum("postgres" in one for one in found) >= 1
            assert sum("freshdb_service" in one or "forkserver" in one for one in found) >= 1
            inner.send_signal(number)
            inner.wait()
            while left := list(left_of(run)):
                assert time.monotonic() < deadline, left
                time.sleep(0.1)
        finally:
            inner.kill()
    assert not Path(run).exists()
