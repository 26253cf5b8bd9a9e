"""How an embedded server is started, found again, and ended, whoever started it.

A server is known by a lock, not by a process id: it inherits an open, ``flock``-ed file from whoever starts it, and so do
its own children. The kernel lets go of the lock when the last of them is gone, however they ended; so "the lock is
free" means exactly "nothing of this server runs any more", also after a crash, a reboot, or ``kill -9``, and a process
id that was used again can mislead nobody. A second lock (``starting``) lets one caller at a time start or stop a server.
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

from freshdb_service.embedded.errors import ServerNotStarted
from freshdb_service.embedded.placement import Account

LOOPBACK: Final = "127.0.0.1"
POLL_SECONDS: Final = 0.01
STARTING_LOCK: Final = "starting.lock"
RUNNING_LOCK: Final = "running.lock"
_MOST_OUTPUT_BYTES: Final = 65_536


@contextmanager
def alone(directory: Path, *, timeout_seconds: float) -> Iterator[None]:
    """Keep other callers from starting or stopping this directory's server meanwhile.

    Raises:
        ServerNotStarted: another caller kept the lock for longer than that.
    """
    with (directory / STARTING_LOCK).open("a") as lock:
        deadline = monotonic() + timeout_seconds
        while not _locked(lock.fileno()):
            if monotonic() > deadline:
                raise ServerNotStarted(
                    f"another process has been starting or stopping the server in {directory} for more than "
                    f"{timeout_seconds:.0f} s: wait for it, or end it (it holds {lock.name})"
                )
            sleep(POLL_SECONDS)
        yield


def is_running(directory: Path) -> bool:
    """Whether any process of this directory's server is left."""
    try:
        with (directory / RUNNING_LOCK).open("a") as lock:
            return not _locked(lock.fileno())
    except FileNotFoundError:
        return False


def spawn(
    command: Sequence[str | Path],
    *,
    directory: Path,
    account: Account | None,
    log: BoundedLog,
) -> subprocess.Popen[bytes]:
    """Start a server in a session of its own, holding the directory's lock.

    Raises:
        ServerNotStarted: a server of this directory runs already, or the program cannot be run.
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
    # Whoever ends it, and whether or not anybody here still thinks of it then: it is collected at once.
    threading.Thread(target=child.wait, name=f"wait for {child.pid}", daemon=True).start()
    return child


def output_of(
    command: Sequence[str | Path], account: Account | None, *, timeout_seconds: float
) -> tuple[int | None, str]:
    """Run a short command as a server would be run, and return its exit code and the first 64 KiB that it printed.

    The exit code is ``None`` if it had not ended by then. Nothing that it started is left.

    Raises:
        OSError: it cannot be run.
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
    """Read what a child prints until it has ended; what it started may hold its output open for longer."""
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
    """Give what a server inherits: nothing that could change its behaviour (``PGDATA``, ``TZ``), messages in English."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def end(
    pid: int | None,
    *,
    directory: Path,
    steps: Sequence[tuple[signal.Signals, float]],
    child: subprocess.Popen[bytes] | None,
) -> None:
    """End the directory's server, and return when nothing of it runs any more.

    Args:
        pid: its main process, if known.
        directory: where it runs.
        steps: the signals to send, each with the seconds until the next is tried.
        child: the same process, where this process has started it and has to collect it.

    Raises:
        ServerNotStarted: it survived all of them.
    """
    for number, patience_seconds in steps:
        if pid is not None and is_running(directory):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        if wait_gone(directory, timeout_seconds=patience_seconds):
            break
    else:
        raise ServerNotStarted(f"the server in {directory} (process {pid}) does not end")
    if child is not None:
        child.wait(timeout=10)


def wait_gone(directory: Path, *, timeout_seconds: float) -> bool:
    """Wait until nothing of the directory's server runs any more; tell whether that came true."""
    deadline = monotonic() + timeout_seconds
    while is_running(directory):
        if monotonic() > deadline:
            return False
        sleep(POLL_SECONDS)
    return True


def secret(path: Path) -> str:
    """Read the password kept in this file of mode 0600; make both at the first time."""
    with suppress(FileNotFoundError):
        return path.read_text().strip()
    password = secrets.token_hex(24)
    write_private(path, password + "\n")
    return password


def write_private(path: Path, text: str, account: Account | None = None) -> None:
    """Replace a file in one step; only its owner (``account``, else this process's user) can read it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        if account is not None:
            os.fchown(descriptor, account.uid, account.gid)
    temporary.replace(path)


def remembered_port(path: Path) -> int:
    """Give the port that was used last, if it is free; else another free one."""
    with suppress(FileNotFoundError, ValueError):
        port = int(path.read_text())
        if port_is_free(port):
            return port
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        name: tuple[str, int] = probe.getsockname()
    return name[1]


def port_is_free(port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as probe:
        # As the servers do: a connection of a former one in TIME_WAIT does not matter.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except (OSError, OverflowError):
            return False
    return True


class BoundedLog:
    """A server's log file, of which at most two times ``limit_bytes`` are kept (the file and its predecessor)."""

    def __init__(self, path: Path, *, limit_bytes: int = 8 * 2**20, look_seconds: float = 30.0) -> None:
        self.path = path
        self._limit_bytes = limit_bytes
        self._look_seconds = look_seconds
        self._over = threading.Event()
        self._watch: threading.Thread | None = None

    @contextmanager
    def writer(self) -> Iterator[int]:
        """Open it for a server to append to."""
        self.trim()
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def size(self) -> int:
        """Give its present length in bytes; 0 if there is none yet."""
        return self.path.stat().st_size if self.path.exists() else 0

    def tail(self, start: int = 0, *, limit: int = 2000) -> str:
        """Give what was written since it had ``start`` bytes, at most the last ``limit`` bytes of it."""
        if not self.path.exists():
            return ""
        with self.path.open("rb") as file:
            file.seek(max(start, self.size() - limit))
            return file.read().decode(errors="replace").strip()

    def trim(self) -> None:
        """Begin anew if it has grown too long. Its writer appends, so the file itself has to stay."""
        if self.size() <= self._limit_bytes:
            return
        with self.path.open("rb+") as file:
            file.seek(-self._limit_bytes // 2, os.SEEK_END)
            kept = file.read(self._limit_bytes // 2)
            self.path.with_suffix(".log.1").write_bytes(kept)
            file.truncate(0)

    def watch(self) -> None:
        """Keep it short from now on, in a thread of its own, until ``unwatch``."""
        if self._watch is None:
            self._over.clear()
            self._watch = threading.Thread(target=self._look, name=f"trim {self.path.name}", daemon=True)
            self._watch.start()

    def unwatch(self) -> None:
        """End what ``watch`` began."""
        self._over.set()
        if self._watch is not None:
            self._watch.join()
            self._watch = None

    def _look(self) -> None:
        while not self._over.wait(self._look_seconds):
            with suppress(OSError):
                self.trim()


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
