"""Runs a command in the foreground while a lease is held.

The command is a child in freshdb's own process group, so the terminal treats both alike: Ctrl-C, Ctrl-Z and hang-ups go
from the terminal to both. freshdb does not pass such a signal on, because a second Ctrl-C means something else to many
programs. It passes on a signal that another process sent. It waits until the command has ended.

``sigtimedwait`` tells these two kinds of signals apart. On other systems, freshdb checks whether its process group has
the terminal.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from freshdb.cli.exits import BY_SIGNAL, CANNOT_EXECUTE, LEASE_LOST, NOT_FOUND
from freshdb.cli.output import print_error, print_message

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from freshdb.held_lease import HeldLease

_PASSED_ON: Final = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
_BY_KEY: Final = frozenset({signal.SIGINT, signal.SIGQUIT})
_BY_A_PROCESS: Final = 0
"""Maximum `si_code` of a signal that a process has sent. The kernel's own signals have higher ones."""
_POLL_SECONDS: Final = 0.2
_GRACE_SECONDS: Final = 10.0


def supervise(command: Sequence[str], environment: Mapping[str, str], held: HeldLease | None) -> int:
    """Run a command and return the exit code: its own, 128+n for signal n, or 75 when the lease was lost.

    The end of the lease's block raises the error with the reason of the loss.
    """
    arrived: list[int] = []
    with _signals_collected(arrived):
        try:
            child = subprocess.Popen(list(command), env=dict(environment))
        except FileNotFoundError:
            print_error(f"{command[0]}: command not found", "check that it is installed and on PATH")
            return NOT_FOUND
        except OSError as error:
            print_error(f"{command[0]}: {error.strerror}")
            return CANNOT_EXECUTE
        with _signals_blocked():
            while child.poll() is None:
                if held is not None and held.loss is not None:
                    print_message(f"the lease was lost: ending {command[0]}")
                    _end(child)
                    return LEASE_LOST
                for number in _next_signals(arrived):
                    child.send_signal(number)
    return child.returncode if child.returncode >= 0 else BY_SIGNAL - child.returncode


@contextmanager
def _signals_collected(arrived: list[int]) -> Iterator[None]:
    """Collect signals instead of ending. The child gets the default handlers, and ignores the signals that we ignore."""
    before = {
        number: signal.signal(number, lambda number, _: arrived.append(number))
        for number in _PASSED_ON
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if sys.platform == "linux":

    @contextmanager
    def _signals_blocked() -> Iterator[None]:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {*_PASSED_ON, signal.SIGCHLD})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _next_signals(arrived: list[int]) -> list[int]:
        """Wait a moment for a signal to pass on. Earlier signals may have come from the terminal."""
        early = _not_from_terminal(arrived)
        found = signal.sigtimedwait({*_PASSED_ON, signal.SIGCHLD}, 0 if early else _POLL_SECONDS)
        sent = found is not None and found.si_signo != signal.SIGCHLD and found.si_code <= _BY_A_PROCESS
        return [*early, *([found.si_signo] if found is not None and sent else [])]

else:

    @contextmanager
    def _signals_blocked() -> Iterator[None]:
        yield

    def _next_signals(arrived: list[int]) -> list[int]:
        time.sleep(_POLL_SECONDS / 4)
        return _not_from_terminal(arrived)


def _not_from_terminal(arrived: list[int]) -> list[int]:
    """Take the signals that arrived, without those that the terminal has probably sent to the child, too."""
    taken = arrived.copy()
    del arrived[: len(taken)]
    return [number for number in taken if number not in _BY_KEY or not _has_terminal()]


def _has_terminal() -> bool:
    try:
        return os.tcgetpgrp(sys.stderr.fileno()) == os.getpgrp()
    except (OSError, ValueError):
        return False


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
