"""The embedded Redis: keeps nothing on disk, refuses to forget under pressure, ends without a trace.

The data directory holds ``password``, ``port``, ``redis.conf`` (mode 0600: it holds the password, and so the password
is on no command line), ``redis.log``, ``redis.pid`` and the locks. Ready means: it answers ``PING`` with our password.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep

from freshdb_service.embedded import placement, processes
from freshdb_service.embedded.binaries import redis_binary, redis_fix, usable_redis
from freshdb_service.embedded.errors import PortTaken, ServerNotStarted
from freshdb_service.embedded.placement import Account
from freshdb_service.embedded.processes import LOOPBACK, POLL_SECONDS, BoundedLog

_START_SECONDS = 30.0
_ANSWER_SECONDS = 0.25  # a caller that gets no answer asks again
_PORT_ATTEMPTS = 5
_END_STEPS = ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0))


class EmbeddedRedis:
    """One Redis server of our own; every method can be called at any time, in any process.

    Args:
        data: its directory; made if need be. Root keeps it elsewhere if the server's user cannot reach it (``placement``).
        binary: ``redis-server`` or ``valkey-server``, 6.2 or newer; by default the first found.
        port: the port on loopback; by default the one used last, else any that is free.
    """

    def __init__(self, data: Path, *, binary: Path | None = None, port: int | None = None) -> None:
        self.data = data
        self._binary = binary
        self._port = port
        self._child: subprocess.Popen[bytes] | None = None
        self._one_call = threading.Lock()

    def __repr__(self) -> str:
        """Name the directory; the password is nowhere in here."""
        return f"EmbeddedRedis({str(self.data)!r})"

    async def start(self) -> str:
        """Start the server, or adopt one that already runs on this data directory.

        When the caller is cancelled meanwhile, the start still ends; ``stop`` waits for it.

        Returns:
            Its URL: ``redis://:SECRET@127.0.0.1:PORT/0``.

        Raises:
            EmbeddedError: it cannot be started; the message says why, and the mend.
        """
        return await asyncio.to_thread(self._start)

    async def stop(self) -> None:
        """End the server, whoever started it, and return when nothing of it runs any more."""
        await asyncio.to_thread(self._stop)

    def _start(self) -> str:
        with self._one_call:
            account = placement.server_account()
            if account is not None:
                placement.remove_abandoned(processes.is_running)
            home = placement.settle(self.data, account)
            password = processes.secret(home / "password")
            with processes.alone(home, timeout_seconds=_START_SECONDS * 2):
                port = self._adopted(home, password) or self._launched(home, password, account)
            return f"redis://:{password}@{LOOPBACK}:{port}/0"

    def _stop(self) -> None:
        with self._one_call:
            home = placement.settled(self.data, placement.server_account())
            if not processes.is_running(home):
                self._collect()
                return
            with processes.alone(home, timeout_seconds=_START_SECONDS * 2):
                pid = _read_number(home / "redis.pid")
                processes.end(pid, directory=home, steps=_END_STEPS, child=self._child)
                self._child = None

    def _collect(self) -> None:
        if self._child is not None:
            self._child.wait(timeout=10)
            self._child = None

    def _adopted(self, home: Path, password: str) -> int | None:
        """Wait for a server that already runs here; ``None`` when there is none (any more)."""
        deadline = monotonic() + _START_SECONDS
        while processes.is_running(home):
            port = _read_number(home / "port")
            if port is not None and _answers(port, password):
                return port
            if monotonic() > deadline:
                raise ServerNotStarted(
                    f"the Redis that runs in {home} has not answered in {_START_SECONDS:.0f} s; see {home / 'redis.log'}"
                )
            sleep(POLL_SECONDS)
        self._collect()
        return None

    def _launched(self, home: Path, password: str, account: Account | None) -> int:
        program = usable_redis(self._binary, account) if self._binary else redis_binary(account)
        log = BoundedLog(home / "redis.log")
        (home / "work").mkdir(mode=0o700, exist_ok=True)
        placement.hand_over(home / "work", account)
        for _ in range(_PORT_ATTEMPTS):
            port = self._choose_port(home)
            processes.write_private(
                home / "redis.conf", _configuration(home / "work", port, password), account
            )
            start = log.size()
            child = processes.spawn([program, home / "redis.conf"], directory=home, account=account, log=log)
            (home / "redis.pid").write_text(f"{child.pid}\n")
            (home / "port").write_text(f"{port}\n")
            if self._ready(port, password, child):
                self._child = child
                return port
            processes.end(child.pid, directory=home, steps=_END_STEPS, child=child)
            said = log.tail(start)
            if "Address already in use" not in said:
                raise ServerNotStarted(
                    f"{program} did not start in {home} within {_START_SECONDS:.0f} s; {redis_fix()}. It said:\n{said}"
                )
            # Somebody was faster than we were between choosing the port and using it.
        raise PortTaken(f"no port on {LOOPBACK} stays free for long enough to start Redis in {home}")

    def _choose_port(self, home: Path) -> int:
        if self._port is None:
            return processes.remembered_port(home / "port")
        if not processes.port_is_free(self._port):
            raise PortTaken(
                f"port {self._port} on {LOOPBACK} is taken: choose another, or none to get one that is free"
            )
        return self._port

    @staticmethod
    def _ready(port: int, password: str, child: subprocess.Popen[bytes]) -> bool:
        """Wait until it answers; false when it ended instead, or took too long."""
        deadline = monotonic() + _START_SECONDS
        while child.poll() is None and monotonic() < deadline:
            if _answers(port, password):
                return True
            sleep(POLL_SECONDS)
        return False


def _configuration(work: Path, port: int, password: str) -> str:
    lines = [
        f"bind {LOOPBACK}",
        f"port {port}",
        f"requirepass {password}",
        f'dir "{work}"',
        "daemonize no",
        # What is in here can be told again from the control plane's tables.
        'save ""',
        "appendonly no",
        # Forgetting a deadline silently would be worse than refusing to take another.
        "maxmemory-policy noeviction",
        "loglevel warning",
    ]
    return "".join(f"{line}\n" for line in lines)


def _answers(port: int, password: str) -> bool:
    """Whether our Redis is there. Who does not ask for a password as ours does is not told it."""
    with suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=_ANSWER_SECONDS) as connection:
        with connection.makefile("rwb") as stream:
            for command, answer in (("PING", b"-NOAUTH"), (f"AUTH {password}", b"+OK"), ("PING", b"+PONG")):
                stream.write(f"{command}\r\n".encode())
                stream.flush()
                if not stream.readline(256).startswith(answer):
                    return False
        return True
    return False


def _read_number(path: Path) -> int | None:
    with suppress(OSError, ValueError):
        return int(path.read_text())
    return None
