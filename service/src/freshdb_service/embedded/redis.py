"""The embedded Redis server, which keeps no data on disk and evicts no keys.

The data directory has ``password``, ``port``, ``redis.conf``, ``redis.log``, ``redis.pid`` and the locks. ``redis.conf`` has
mode 0600 and contains the password, so that no command line has it. The server is ready when it answers ``PING`` after a
login with this password.
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
_ANSWER_SECONDS = 0.25  # without an answer, the caller retries
_PORT_ATTEMPTS = 5
_STOP_STEPS = ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0))


class EmbeddedRedis:
    """An embedded Redis server. Its methods can be called at any time and from any process.

    Args:
        data: data directory, created if missing. Root relocates it if the server's user cannot reach it (``placement``).
        binary: ``redis-server`` or ``valkey-server``, 6.2 or newer, by default the first found.
        port: port on loopback, by default that of the last start, else a free one.
    """

    def __init__(self, data: Path, *, binary: Path | None = None, port: int | None = None) -> None:
        self.data = data
        self._binary = binary
        self._port = port
        self._child: subprocess.Popen[bytes] | None = None
        self._one_call = threading.Lock()

    def __repr__(self) -> str:
        """Show the directory, but no password."""
        return f"EmbeddedRedis({str(self.data)!r})"

    async def start(self) -> str:
        """Start the server, or adopt one that already runs on this data directory.

        If the caller is cancelled, the start still completes, and ``stop`` waits for it.

        Returns:
            The URL: ``redis://:SECRET@127.0.0.1:PORT/0``.

        Raises:
            EmbeddedError: the server cannot start. The message has the reason and the remedy.
        """
        return await asyncio.to_thread(self._start)

    async def stop(self) -> None:
        """Stop the server, also if another process started it, and wait until all its processes are gone."""
        await asyncio.to_thread(self._stop)

    def _start(self) -> str:
        with self._one_call:
            account = placement.server_account()
            if account is not None:
                placement.remove_abandoned(processes.is_running)
            home = placement.prepare_directory(self.data, account)
            password = processes.read_password(home / "password")
            with processes.exclusive(home, timeout_seconds=_START_SECONDS * 2):
                port = self._adopt(home, password) or self._launch(home, password, account)
            return f"redis://:{password}@{LOOPBACK}:{port}/0"

    def _stop(self) -> None:
        with self._one_call:
            home = placement.server_directory(self.data, placement.server_account())
            if not processes.is_running(home):
                self._reap()
                return
            with processes.exclusive(home, timeout_seconds=_START_SECONDS * 2):
                pid = _read_number(home / "redis.pid")
                processes.stop(pid, directory=home, steps=_STOP_STEPS, child=self._child)
                self._child = None

    def _reap(self) -> None:
        if self._child is not None:
            self._child.wait(timeout=10)
            self._child = None

    def _adopt(self, home: Path, password: str) -> int | None:
        """Wait for a server that already runs here. Return ``None`` if there is none, or if it stops."""
        deadline = monotonic() + _START_SECONDS
        while processes.is_running(home):
            port = _read_number(home / "port")
            if port is not None and _answers(port, password):
                return port
            if monotonic() > deadline:
                raise ServerNotStarted(
                    f"the Redis server in {home} did not answer within {_START_SECONDS:.0f} s; see {home / 'redis.log'}"
                )
            sleep(POLL_SECONDS)
        self._reap()
        return None

    def _launch(self, home: Path, password: str, account: Account | None) -> int:
        program = usable_redis(self._binary, account) if self._binary else redis_binary(account)
        log = BoundedLog(home / "redis.log")
        (home / "work").mkdir(mode=0o700, exist_ok=True)
        placement.change_owner(home / "work", account)
        for _ in range(_PORT_ATTEMPTS):
            port = processes.choose_port(self._port, home / "port")
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
            processes.stop(child.pid, directory=home, steps=_STOP_STEPS, child=child)
            output = log.tail(start)
            if "Address already in use" not in output:
                raise ServerNotStarted(
                    f"{program} did not start in {home} within {_START_SECONDS:.0f} s; {redis_fix()}. Its log:\n{output}"
                )
            # Another process took the port between the choice and the start.
        raise PortTaken(
            f"no free port on {LOOPBACK} for Redis in {home}: other processes take them; start it again"
        )

    @staticmethod
    def _ready(port: int, password: str, child: subprocess.Popen[bytes]) -> bool:
        """Wait until the server answers. Return false if it exits instead, or after the timeout."""
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
        # All contents can be restored from the control plane's tables.
        'save ""',
        "appendonly no",
        # Evicting a deadline silently would be worse than refusing a new one.
        "maxmemory-policy noeviction",
        "loglevel warning",
    ]
    return "".join(f"{line}\n" for line in lines)


def _answers(port: int, password: str) -> bool:
    """True if the embedded Redis answers. A server that does not ask for a password does not get it."""
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
