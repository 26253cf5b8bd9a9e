"""Start, find and stop the processes of an embedded server, also from another process than the one that started it.

A server is identified by a lock instead of a process id. It inherits an open, ``flock``-ed file from its starter, and so do
its own children. The kernel releases the lock when the last of them is gone, even after a crash, a reboot, or ``kill -9``.
So the lock is free exactly if no process of the server runs, and a reused process id does not matter. A second lock
(``starting``) allows only one caller at a time to start or stop a server.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import select
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Final

from freshdb_service.embedded.errors import PortTaken, ServerNotStarted
from freshdb_service.embedded.placement import Account

LOOPBACK: Final = "127.0.0.1"
POLL_SECONDS: Final = 0.01
STARTING_LOCK: Final = "starting.lock"
RUNNING_LOCK: Final = "running.lock"
_MOST_OUTPUT_BYTES: Final = 65_536


@contextmanager
def exclusive(directory: Path, *, timeout_seconds: float) -> Iterator[None]:
    """Prevent other callers from starting or stopping this directory's server during the block.

    Raises:
        ServerNotStarted: another caller held the lock for longer than the timeout.
    """
    with (directory / STARTING_LOCK).open("a") as lock:
        deadline = monotonic() + timeout_seconds
        while not _locked(lock.fileno()):
            if monotonic() > deadline:
                raise ServerNotStarted(
                    f"another process has been starting or stopping the server in {directory} for more than "
                    f"{timeout_seconds:.0f} s: wait for it, or kill it (it holds {lock.name})"
                )
            sleep(POLL_SECONDS)
        yield


def is_running(directory: Path) -> bool:
    """True if any process of this directory's server is running."""
    try:
        with (directory / RUNNING_LOCK).open("a") as lock:
            return not _locked(lock.fileno())
    except FileNotFoundError:
        return False


def spawn(
    command: Sequence[str | Path], *, directory: Path, account: Account | None, log: BoundedLog
) -> subprocess.Popen[bytes]:
    """Start a server in its own session, with the directory's lock.

    Raises:
        ServerNotStarted: a server of this directory already runs, or the program cannot be run.
    """
    with (directory / RUNNING_LOCK).open("a") as lock, log.writer() as output:
        if not _locked(lock.fileno()):
            raise ServerNotStarted(f"a server is already running in {directory}")
        try:
            child = subprocess.Popen(
                command,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment(),
                start_new_session=True,
                pass_fds=(lock.fileno(),),
                umask=0o077,
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=() if account else None,
            )
        except OSError as error:
            raise ServerNotStarted(f"{command[0]} cannot be run: {error.strerror or error}") from error
    # Reap the child as soon as it exits, also if another process stops it.
    threading.Thread(target=child.wait, name=f"wait for {child.pid}", daemon=True).start()
    return child


def output_of(
    command: Sequence[str | Path], account: Account | None, *, timeout_seconds: float
) -> tuple[int | None, str]:
    """Run a short command like a server, and return its exit code and the first 64 KiB of its output.

    The exit code is ``None`` if the command did not exit within the timeout. All processes that it started are killed.

    Raises:
        OSError: the command cannot be run.
    """
    with subprocess.Popen(
        command,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment(),
        start_new_session=True,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=() if account else None,
    ) as child:
        try:
            printed = _read(child, monotonic() + timeout_seconds)
            code = child.poll()
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
    return code, printed.decode(errors="replace").strip()


def _read(child: subprocess.Popen[bytes], deadline: float) -> bytes:
    """Read the output of a child until it exits, because its own children may hold the output open for longer."""
    assert child.stdout is not None  # noqa: S101 - for the type checker
    printed = b""
    while monotonic() < deadline and len(printed) < _MOST_OUTPUT_BYTES:
        ended = child.poll() is not None
        if select.select([child.stdout], [], [], 0 if ended else POLL_SECONDS)[0]:
            part = os.read(child.stdout.fileno(), _MOST_OUTPUT_BYTES)
            printed += part
            if part:
                continue
            with suppress(subprocess.TimeoutExpired):
                child.wait(max(0.0, deadline - monotonic()))
            break
        if ended:
            break
    return printed


def environment() -> dict[str, str]:
    """Return the environment of a server: English messages, and no variables that change it (``PGDATA``, ``TZ``)."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def stop(
    pid: int | None,
    *,
    directory: Path,
    steps: Sequence[tuple[signal.Signals, float]],
    child: subprocess.Popen[bytes] | None,
) -> None:
    """Stop the directory's server, and wait until all its processes are gone.

    Args:
        pid: main process, if known.
        directory: directory of the server.
        steps: signals to send, each with the seconds until the next one.
        child: the main process, if this process started it and must reap it.

    Raises:
        ServerNotStarted: the server survived all signals.
    """
    for number, timeout_seconds in steps:
        if pid is not None and is_running(directory):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        if wait_stopped(directory, timeout_seconds=timeout_seconds):
            break
    else:
        raise ServerNotStarted(f"the server in {directory} (process {pid}) does not stop; kill it")
    if child is not None:
        child.wait(timeout=10)


def wait_stopped(directory: Path, *, timeout_seconds: float) -> bool:
    """Wait until all processes of the directory's server are gone. Return false after the timeout."""
    deadline = monotonic() + timeout_seconds
    while is_running(directory):
        if monotonic() > deadline:
            return False
        sleep(POLL_SECONDS)
    return True


def read_password(path: Path) -> str:
    """Read the password from this file of mode 0600. Create both if they are missing."""
    with suppress(FileNotFoundError):
        return path.read_text().strip()
    password = secrets.token_hex(24)
    write_private(path, password + "\n")
    return password


def write_private(path: Path, text: str, account: Account | None = None) -> None:
    """Replace a file atomically. Only its owner (``account``, else this process's user) can read it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        if account is not None:
            os.fchown(descriptor, account.uid, account.gid)
    temporary.replace(path)


def choose_port(given: int | None, file: Path) -> int:
    """Return the given port if it is free. Without one, return ``remembered_port``.

    Raises:
        PortTaken: the given port is in use.
    """
    if given is None:
        return remembered_port(file)
    if not port_is_free(given):
        raise PortTaken(f"port {given} on {LOOPBACK} is in use: choose another, or omit it to use a free one")
    return given


def remembered_port(path: Path) -> int:
    """Return the port of the last start if it is free, else another free port."""
    with suppress(FileNotFoundError, ValueError):
        port = int(path.read_text())
        if port_is_free(port):
            return port
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        name: tuple[str, int] = probe.getsockname()
    return name[1]


def port_is_free(port: int) -> bool:
    """True if a server can listen on this port now."""
    with socket.socket() as probe:
        # The servers set this, too, so that old connections in TIME_WAIT do not matter.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except (OSError, OverflowError):
            return False
    return True


class BoundedLog:
    """A server's log file with a maximum size: at most ``limit_bytes`` each in the file and its predecessor."""

    def __init__(self, path: Path, *, limit_bytes: int = 8 * 2**20, interval_seconds: float = 30.0) -> None:
        self.path = path
        self._limit_bytes = limit_bytes
        self._interval_seconds = interval_seconds
        self._stopped = threading.Event()
        self._watch: threading.Thread | None = None

    @contextmanager
    def writer(self) -> Iterator[int]:
        """Open the file for a server to append to."""
        self.trim()
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def size(self) -> int:
        """Return the size in bytes, or 0 if the file is missing."""
        return self.path.stat().st_size if self.path.exists() else 0

    def tail(self, start: int = 0, *, limit: int = 2000) -> str:
        """Return the text after the first ``start`` bytes, at most the last ``limit`` bytes of it."""
        if not self.path.exists():
            return ""
        with self.path.open("rb") as file:
            file.seek(max(start, self.size() - limit))
            return file.read().decode(errors="replace").strip()

    def trim(self) -> None:
        """Truncate the file if it is too long. The server appends to it, so the file itself must stay."""
        if self.size() <= self._limit_bytes:
            return
        with self.path.open("rb+") as file:
            file.seek(-self._limit_bytes // 2, os.SEEK_END)
            kept = file.read(self._limit_bytes // 2)
            self.path.with_suffix(".log.1").write_bytes(kept)
            file.truncate(0)

    def watch(self) -> None:
        """Trim the file periodically in a thread until ``unwatch``."""
        if self._watch is None:
            self._stopped.clear()
            self._watch = threading.Thread(
                target=self._trim_periodically, name=f"trim {self.path.name}", daemon=True
            )
            self._watch.start()

    def unwatch(self) -> None:
        """Stop the thread of ``watch``."""
        self._stopped.set()
        if self._watch is not None:
            self._watch.join()
            self._watch = None

    def _trim_periodically(self) -> None:
        while not self._stopped.wait(self._interval_seconds):
            with suppress(OSError):
                self.trim()


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
