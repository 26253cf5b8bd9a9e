"""The embedded PostgreSQL: made on the first start, found again on the next, ended without a trace.

The data directory holds::

    cluster/         PGDATA; appears, complete, by one rename
    password         the superuser's, mode 0600
    port             the one used last
    postgres.log     bounded
    *.lock           see ``processes``

A start is: take the lock, and unless a server is running there already, make the cluster if there is none, write its
settings, start ``postgres`` as a child in a session of its own, and wait until its ``postmaster.pid`` says ``ready``. No
driver and no ``pg_ctl`` take part. What a start leaves behind when it is interrupted, the next one clears.

The settings are for tests: a crash of the machine may cost all data (``fsync = off``), and that is fine.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Final, Literal

from freshdb_service.embedded import placement, processes
from freshdb_service.embedded.binaries import newest_postgres_binaries, postgres_bundle, postgres_major
from freshdb_service.embedded.errors import BinaryNotFound, DataDirectoryUnusable, PortTaken, ServerNotStarted
from freshdb_service.embedded.placement import Account
from freshdb_service.embedded.processes import LOOPBACK, POLL_SECONDS, BoundedLog

SUPERUSER: Final = "freshdb"

Auth = Literal["scram-sha-256", "trust"]

_START_SECONDS = 120.0
_INITDB_SECONDS = 300.0
_PORT_ATTEMPTS = 5
_ANSWER_SECONDS = 2.0
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)  # its length, and the code that the protocol gives it
_STAGING = "cluster.new-"

# Fast (connections are cut, work is rolled back), then immediate (as after a crash), then by force.
_END_STEPS = ((signal.SIGINT, 30.0), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 10.0))

_SETTINGS: Final[Mapping[str, str]] = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    # Durability is for data that anybody would miss.
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "1GB",
    "checkpoint_timeout": "30min",
    # Many databases with few connections each.
    "max_connections": "300",
    "max_prepared_transactions": "64",
    "max_locks_per_transaction": "256",
    "shared_buffers": "128MB",
    # The counters tell what a lease has touched.
    "track_counts": "on",
    "autovacuum": "on",
    # Compiling a test's query takes longer than running it.
    "jit": "off",
    # Statements may hold passwords, and tests provoke errors by the thousand.
    "log_min_error_statement": "panic",
    "log_statement": "none",
    "logging_collector": "off",
    "log_line_prefix": "%m [%p] %d ",
    "log_timezone": "UTC",
    "timezone": "UTC",
    "lc_messages": "C",
    # What initdb chooses for the C locale; a server without the setting would parse every text as "simple".
    "default_text_search_config": "pg_catalog.english",
    "password_encryption": "scram-sha-256",
}


@dataclass(frozen=True, slots=True)
class _Postmaster:
    """What ``postmaster.pid`` says."""

    pid: int
    port: int
    ready: bool


class EmbeddedPostgres:
    """One PostgreSQL server of our own; every method can be called at any time, in any process.

    Args:
        data: its directory; made if need be. Root keeps it elsewhere if PostgreSQL's user cannot reach it (``placement``).
        binaries: the ``bin`` directory with ``postgres`` and ``initdb``; by default the newest found.
        port: the port on loopback; by default the one used last, else any that is free.
        settings: further settings, and other values for those made here, as in ``postgresql.conf``.
        auth: what ``pg_hba.conf`` says.
    """

    def __init__(
        self,
        data: Path,
        *,
        binaries: Path | None = None,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
        auth: Auth = "scram-sha-256",
    ) -> None:
        self.data = data
        self._binaries = binaries
        self._port = port
        self._settings = dict(settings or {})
        self._auth = auth
        self._child: subprocess.Popen[bytes] | None = None
        self._log: BoundedLog | None = None
        self._one_call = threading.Lock()

    def __repr__(self) -> str:
        """Name the directory; the password is nowhere in here."""
        return f"EmbeddedPostgres({str(self.data)!r})"

    async def start(self) -> str:
        """Start the server, or adopt one that already runs on this data directory.

        When the caller is cancelled meanwhile, the start still ends; ``stop`` waits for it.

        Returns:
            A superuser's DSN: ``postgresql://freshdb:SECRET@127.0.0.1:PORT/postgres``.

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
            self._log = BoundedLog(home / "postgres.log")
            with processes.alone(home, timeout_seconds=_START_SECONDS + _INITDB_SECONDS):
                postmaster = self._adopted(home) or self._started(home, account)
            self._log.watch()
            password = processes.secret(home / "password")
            return f"postgresql://{SUPERUSER}:{password}@{LOOPBACK}:{postmaster.port}/postgres"

    def _stop(self) -> None:
        with self._one_call:
            if self._log is not None:
                self._log.unwatch()
            home = placement.settled(self.data, placement.server_account())
            if not processes.is_running(home):
                self._collect()
                return
            with processes.alone(home, timeout_seconds=_START_SECONDS + _INITDB_SECONDS):
                postmaster = _postmaster(home)
                pid = postmaster.pid if postmaster else self._child.pid if self._child else None
                processes.end(pid, directory=home, steps=_END_STEPS, child=self._child)
                self._child = None

    def _collect(self) -> None:
        if self._child is not None:
            self._child.wait(timeout=10)
            self._child = None

    def _adopted(self, home: Path) -> _Postmaster | None:
        """Wait for a server that already runs here; ``None`` when there is none (any more)."""
        deadline = monotonic() + _START_SECONDS
        while processes.is_running(home):
            postmaster = _postmaster(home)
            if postmaster and postmaster.ready and _answers(postmaster.port):
                return postmaster
            # It is still starting, or its head is gone and its backends are about to notice.
            if monotonic() > deadline:
                raise ServerNotStarted(
                    f"the PostgreSQL that runs in {home} has not become ready in {_START_SECONDS:.0f} s; "
                    f"see {self._log_path(home)}"
                )
            sleep(POLL_SECONDS)
        self._collect()
        return None

    def _started(self, home: Path, account: Account | None) -> _Postmaster:
        binaries = self._reachable_binaries(account)
        major = postgres_major(binaries)
        cluster = home / "cluster"
        for leftover in home.glob(f"{_STAGING}*"):
            shutil.rmtree(leftover)
        if not cluster.exists():
            self._initialise(home, binaries, major, account)
        made_by = (cluster / "PG_VERSION").read_text().strip()
        if made_by != str(major):
            raise DataDirectoryUnusable(
                f"{cluster} was made by PostgreSQL {made_by}, and {binaries} is PostgreSQL {major}: remove {cluster} "
                f"(what is in there is lost), choose another with --data DIR, or install PostgreSQL {made_by}"
            )
        (cluster / "postmaster.pid").unlink(missing_ok=True)  # nothing runs here, the lock says
        return self._launched(home, binaries / "postgres", account)

    def _reachable_binaries(self, account: Account | None) -> Path:
        binaries = self._binaries or newest_postgres_binaries()
        for name in ("postgres", "initdb"):
            if not (binaries / name).is_file():
                raise BinaryNotFound(
                    f"there is no {name} in {binaries}: give the bin directory of a PostgreSQL server"
                )
        return placement.runnable(binaries / "postgres", account, bundle=postgres_bundle).parent

    def _initialise(self, home: Path, binaries: Path, major: int, account: Account | None) -> None:
        """Make the cluster beside its place, then put it there by one rename."""
        staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=home))
        try:
            placement.hand_over(staging, account)
            password = processes.secret(home / "password")
            # initdb runs as `account`, who cannot read ours.
            password_file = staging / "password"
            processes.write_private(password_file, password, account)
            self._run_initdb(binaries, staging / "cluster", password_file, major, account)
            (staging / "cluster").rename(home / "cluster")
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _run_initdb(
        self, binaries: Path, cluster: Path, password_file: Path, major: int, account: Account | None
    ) -> None:
        said = ""
        for locale in _locales(major):
            command: list[str | Path] = [
                *(binaries / "initdb", "-D", cluster, f"--username={SUPERUSER}", f"--pwfile={password_file}"),
                *("--encoding=UTF8", *locale, f"--auth={self._auth}", "--no-sync", "--no-instructions"),
                *(["--no-data-checksums"] if major >= 18 else []),  # noqa: PLR2004 - on by default since 18
            ]
            try:
                done = subprocess.run(
                    command,
                    cwd=cluster.parent,
                    env=processes.environment(),
                    capture_output=True,
                    timeout=_INITDB_SECONDS,
                    check=False,
                    user=account.uid if account else None,
                    group=account.gid if account else None,
                    extra_groups=() if account else None,
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                raise ServerNotStarted(f"{binaries / 'initdb'} failed: {error}") from error
            if done.returncode == 0:
                return
            said = done.stderr.decode(errors="replace").strip()
            if "locale" not in said:
                break
        raise ServerNotStarted(
            f"{binaries / 'initdb'} could not make {cluster.parent.parent / 'cluster'}: {said}"
        )

    def _launched(self, home: Path, program: Path, account: Account | None) -> _Postmaster:
        log = self._log or BoundedLog(self._log_path(home))
        for _ in range(_PORT_ATTEMPTS):
            port = self._choose_port(home)
            self._write_settings(home / "cluster", port, account)
            start = log.size()
            self._child = processes.spawn(
                [program, "-D", home / "cluster"], directory=home, account=account, log=log
            )
            postmaster = self._ready(home, self._child)
            if postmaster is not None:
                (home / "port").write_text(f"{port}\n")
                return postmaster
            said = log.tail(start)
            if "Address already in use" not in said:
                raise ServerNotStarted(f"PostgreSQL did not start in {home}:\n{said}")
            # Somebody was faster than we were between choosing the port and using it.
        raise PortTaken(f"no port on {LOOPBACK} stays free for long enough to start PostgreSQL in {home}")

    def _choose_port(self, home: Path) -> int:
        if self._port is None:
            return processes.remembered_port(home / "port")
        if not processes.port_is_free(self._port):
            raise PortTaken(
                f"port {self._port} on {LOOPBACK} is taken: choose another, or none to get one that is free"
            )
        return self._port

    def _ready(self, home: Path, child: subprocess.Popen[bytes]) -> _Postmaster | None:
        """Wait until it is ready; ``None`` when it ended instead."""
        deadline = monotonic() + _START_SECONDS
        while child.poll() is None:
            postmaster = _postmaster(home)
            if postmaster and postmaster.ready and postmaster.pid == child.pid:
                return postmaster
            if monotonic() > deadline:
                processes.end(child.pid, directory=home, steps=_END_STEPS[1:], child=child)
                raise ServerNotStarted(
                    f"PostgreSQL has not become ready in {_START_SECONDS:.0f} s in {home}; see {self._log_path(home)}"
                )
            sleep(POLL_SECONDS)
        self._child = None
        return None

    def _write_settings(self, cluster: Path, port: int, account: Account | None) -> None:
        values = {**_SETTINGS, **self._settings, "port": str(port)}
        lines = [f"{name} = '{value.replace(chr(39), chr(39) * 2)}'\n" for name, value in values.items()]
        processes.write_private(
            cluster / "postgresql.conf", "# Written anew at every start.\n" + "".join(lines), account
        )
        processes.write_private(
            cluster / "pg_hba.conf", f"host all all {LOOPBACK}/32 {self._auth}\n", account
        )

    @staticmethod
    def _log_path(home: Path) -> Path:
        return home / "postgres.log"


def _postmaster(home: Path) -> _Postmaster | None:
    with suppress(OSError, ValueError, IndexError):
        lines = (home / "cluster" / "postmaster.pid").read_text().splitlines()
        ready = len(lines) > 7 and lines[7].strip() == "ready"  # noqa: PLR2004 - the eighth line is the status
        return _Postmaster(pid=int(lines[0]), port=int(lines[3]), ready=ready)
    return None


def _answers(port: int) -> bool:
    """Ask for TLS, the one question that needs neither a login nor a driver: the answer is one byte, yes or no."""
    with suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=_ANSWER_SECONDS) as connection:
        connection.sendall(_SSL_REQUEST)
        return connection.recv(1) in {b"N", b"S"}
    return False


def _locales(major: int) -> Iterator[list[str]]:
    """Yield initdb's locale arguments, best first: bytewise order (fast, the same everywhere), Unicode's case mapping."""
    if major >= 17:  # noqa: PLR2004 - brought the provider that needs nothing of the system
        yield ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    else:
        yield ["--locale=C", "--lc-ctype=C.UTF-8"]
        yield ["--locale=C"]
