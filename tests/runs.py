"""One test run: the directories of its files, and the end of every process that it started, however the run itself ends.

Servers hold a lock below the run's directories (``freshdb_service.embedded.processes``). Every other process inherits the
variable ``TEST_RUN_OF_FRESHDB``. A watchdog, a process of its own, waits at a pipe for the end of the run's main process,
and then ends both kinds, also after SIGTERM or SIGKILL. If the watchdog was killed, too, the next run ends these processes
when it begins.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import psutil

from freshdb_service.embedded import EmbeddedPostgres, EmbeddedRedis, placement, processes

RUN_VARIABLE: Final = "TEST_RUN_OF_FRESHDB"
"""Its name has none of the prefixes that tests remove from an environment."""
_PREFIX: Final = "freshdb-testrun-"
_LOCK: Final = "run.lock"
_FILES: Final = "freshdb-testfiles-"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Run:
    """A test run. Its ``root`` is in memory where the system offers that. Its other files are in ``TMPDIR``."""

    root: Path
    lock: int
    watchdog: subprocess.Popen[bytes]

    @classmethod
    def begin(cls) -> Run:
        """End the processes of dead runs, create this run's directories, and start its watchdog."""
        temporary = Path(tempfile.gettempdir())
        in_memory = Path("/dev/shm")  # noqa: S108 - mkdtemp
        parent = in_memory if os.access(in_memory, os.W_OK) else temporary
        with _exclusive_start(parent):
            for old_root in parent.glob(f"{_PREFIX}*"):
                if old_root.is_dir() and old_root.stat().st_uid == os.geteuid() and not _is_live(old_root):
                    end_everything(old_root)
            for files in temporary.glob(f"{_FILES}*"):
                root = parent / files.name.replace(_FILES, _PREFIX)
                if files.stat().st_uid == os.geteuid() and not _is_live(root):
                    shutil.rmtree(files, ignore_errors=True)
            root = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
            lock = os.open(root / _LOCK, os.O_CREAT | os.O_RDWR)
            fcntl.flock(lock, fcntl.LOCK_EX)
        root.chmod(0o711)  # for the servers' own user
        files = temporary / root.name.replace(_PREFIX, _FILES)
        files.mkdir(mode=0o711)
        (root / "files").symlink_to(files)
        command = [sys.executable, "-m", "tests.runs", str(root)]
        watchdog = subprocess.Popen(
            command, stdin=subprocess.PIPE, cwd=Path(__file__).parents[1], start_new_session=True
        )
        os.environ |= {RUN_VARIABLE: str(root), "TMPDIR": str(files)}
        tempfile.tempdir = None  # to be read again
        return cls(root, lock, watchdog)

    def end(self) -> None:
        """End every process that the run started. Its files stay until the next run begins."""
        self.watchdog.communicate()
        os.close(self.lock)


def end_everything(root: Path) -> None:
    """End the processes and servers of a run, and remove its directory in memory."""
    ancestors = {os.getpid(), *(one.pid for one in psutil.Process().parents())}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid not in ancestors and process.environ().get(RUN_VARIABLE) == str(root):
                process.kill()
    for directory in (_files_of(root), root):
        end_servers_in(directory)
    shutil.rmtree(root, ignore_errors=True)


def end_servers_in(directory: Path) -> None:
    """End the embedded servers whose files are below this directory, whichever process started them."""
    directories = []
    for place, below, files in os.walk(
        directory
    ):  # which goes on where a server removes a directory in the meantime
        below[:] = [name for name in below if name != "cluster"]
        if processes.RUNNING_LOCK in files:
            directories.append(Path(place))
    for origin in (placement.ROOT_DATA / "data").glob("*/origin"):
        with suppress(FileNotFoundError):  # another process has just removed it
            if Path(origin.read_text().strip()).is_relative_to(directory):
                directories.append(origin.parent)
    for server_directory in directories:
        if processes.is_running(server_directory):
            is_redis = (server_directory / "redis.conf").exists()
            run_sync(
                (EmbeddedRedis(server_directory) if is_redis else EmbeddedPostgres(server_directory)).stop()
            )


def run_sync(awaitable: Coroutine[object, object, T]) -> T:
    """Run a coroutine to its end in a loop of its own, also where a loop is running."""
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(asyncio.run, awaitable).result()


def _files_of(root: Path) -> Path:
    return (root / "files").resolve()


@contextmanager
def _exclusive_start(parent: Path) -> Iterator[None]:
    """Keep other runs of this user from beginning in the meantime."""
    with (parent / f"{_PREFIX}{os.geteuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_live(root: Path) -> bool:
    try:
        with (root / _LOCK).open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _watch(root: Path) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()  # returns when the run's main process has ended, because no data is ever written
    end_everything(root)


if __name__ == "__main__":
    _watch(Path(sys.argv[1]))
