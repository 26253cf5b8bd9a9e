"""Runs a command in the foreground for as long as a lease lasts.

The command is a child in our own process group, so the terminal treats it as it would without us: Ctrl-C, Ctrl-Z and
hang-ups go from the terminal to both. Such a signal is not passed on again (a second Ctrl-C means something else to many
programs); one that another process sent to us is. We stay until the command has ended.

Signals are taken by ``sigtimedwait``, which tells the two apart; where the system lacks it, by whether the command's
group has the terminal.
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
from freshdb.cli.output import complain, say

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
"""The largest `si_code` of a signal that a process has sent; the kernel's own are above."""
_LOOK_SECONDS: Final = 0.2
_GRACE_SECONDS: Final = 10.0


def supervise(command: Sequence[str], environment: Mapping[str, str], held: HeldLease | None) -> int:
    """Run a command; gives the exit code to end with: its own, 128+n for signal n, 75 when the lease was lost.

    Why it was lost is said by whoever ends the lease's block.
    """
    arrived: list[int] = []
    with _signals_noted(arrived):
        try:
            child = subprocess.Popen(list(command), env=dict(environment))
        except FileNotFoundError:
            complain(f"{command[0]}: there is no such command", "is it installed, and on PATH?")
            return NOT_FOUND
        except OSError as error:
            complain(f"{command[0]}: {error.strerror}")
            return CANNOT_EXECUTE
        with _signals_waited_for():
            while child.poll() is None:
                if held is not None and held.loss is not None:
                    say(f"the lease was lost: ending {command[0]}")
                    _end(child)
                    return LEASE_LOST
                for number in _next_signals(arrived):
                    child.send_signal(number)
    return child.returncode if child.returncode >= 0 else BY_SIGNAL - child.returncode


@contextmanager
def _signals_noted(arrived: list[int]) -> Iterator[None]:
    """Note signals instead of dying of them; the child gets the usual handlers, or goes on ignoring what we do."""
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
    def _signals_waited_for() -> Iterator[None]:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {*_PASSED_ON, signal.SIGCHLD})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _next_signals(arrived: list[int]) -> list[int]:
        """Wait a moment for a signal to pass on; what came before we could wait may have been the terminal's."""
        early = _not_from_terminal(arrived)
        found = signal.sigtimedwait({*_PASSED_ON, signal.SIGCHLD}, 0 if early else _LOOK_SECONDS)
        sent = found is not None and found.si_signo != signal.SIGCHLD and found.si_code <= _BY_A_PROCESS
        return [*early, *([found.si_signo] if found is not None and sent else [])]

else:

    @contextmanager
    def _signals_waited_for() -> Iterator[None]:
        yield

    def _next_signals(arrived: list[int]) -> list[int]:
        time.sleep(_LOOK_SECONDS / 4)
        return _not_from_terminal(arrived)


def _not_from_terminal(arrived: list[int]) -> list[int]:
    """Take what has arrived, without what the terminal has probably sent to the child, too."""
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
