"""The embedded PostgreSQL server, which is created at the first start and reused later.

The data directory has::

    cluster/         PGDATA, created completely by one rename
    password         password of the superuser, mode 0600
    port             port of the last start
    postgres.log     log with a maximum size
    *.lock           see ``processes``

A start takes the lock. Unless a server already runs there, it creates the cluster if there is none, writes its settings,
starts ``postgres`` as a child in its own session, and waits until ``postmaster.pid`` says ``ready``. It uses no driver and
no ``pg_ctl``. The next start removes the remains of an interrupted one.

The settings are for tests: a crash of the machine may lose all data (``fsync = off``).
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
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)  # length and code of the protocol's SSLRequest
_STAGING = "cluster.new-"

# Fast shutdown (closes connections and rolls back), then immediate shutdown (as after a crash), then kill.
_STOP_STEPS = ((signal.SIGINT, 30.0), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 10.0))

_SETTINGS: Final[Mapping[str, str]] = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    # Test data needs no durability.
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
    # The counters show the tables that a lease has changed. Autovacuum would change the storage of leased databases, so the
    # service vacuums its own tables and the shared catalogs.
    "track_counts": "on",
    "autovacuum": "off",
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
    # The choice of initdb for the C locale. Without it, the server would parse every text as "simple".
    "default_text_search_config": "pg_catalog.english",
    "password_encryption": "scram-sha-256",
}


@dataclass(frozen=True, slots=True)
class _Postmaster:
    """The contents of ``postmaster.pid``."""

    pid: int
    port: int
    ready: bool


class EmbeddedPostgres:
    """An embedded PostgreSQL server. Its methods can be called at any time and from any process.

    Args:
        data: data directory, created if missing. Root relocates it if PostgreSQL's user cannot reach it (``placement``).
        binaries: ``bin`` directory with ``postgres`` and ``initdb``, by default the newest found.
        port: port on loopback, by default that of the last start, else a free one.
        settings: additional or different settings, as in ``postgresql.conf``.
        auth: authentication method in ``pg_hba.conf``.
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
        """Show the directory, but no password."""
        return f"EmbeddedPostgres({str(self.data)!r})"

    async def start(self) -> str:
        """Start the server, or adopt one that already runs on this data directory.

        If the caller is cancelled, the start still completes, and ``stop`` waits for it.

        Returns:
            A superuser's DSN: ``postgresql://freshdb:SECRET@127.0.0.1:PORT/postgres``.

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
            self._log = BoundedLog(home / "postgres.log")
            with processes.exclusive(home, timeout_seconds=_START_SECONDS + _INITDB_SECONDS):
                postmaster = self._adopt(home) or self._start_new(home, account)
            self._log.watch()
            password = processes.read_password(home / "password")
            return f"postgresql://{SUPERUSER}:{password}@{LOOPBACK}:{postmaster.port}/postgres"

    def _stop(self) -> None:
        with self._one_call:
            if self._log is not None:
                self._log.unwatch()
            home = placement.server_directory(self.data, placement.server_account())
            if not processes.is_running(home):
                self._reap()
                return
            with processes.exclusive(home, timeout_seconds=_START_SECONDS + _INITDB_SECONDS):
                postmaster = _postmaster(home)
                pid = postmaster.pid if postmaster else self._child.pid if self._child else None
                processes.stop(pid, directory=home, steps=_STOP_STEPS, child=self._child)
                self._child = None

    def _reap(self) -> None:
        if self._child is not None:
            self._child.wait(timeout=10)
            self._child = None

    def _adopt(self, home: Path) -> _Postmaster | None:
        """Wait for a server that already runs here. Return ``None`` if there is none, or if it stops."""
        deadline = monotonic() + _START_SECONDS
        while processes.is_running(home):
            postmaster = _postmaster(home)
            if postmaster and postmaster.ready and _answers(postmaster.port):
                return postmaster
            # It is still starting, or its postmaster is gone and its backends are about to exit.
            if monotonic() > deadline:
                raise ServerNotStarted(
                    f"the PostgreSQL server that runs in {home} did not become ready within {_START_SECONDS:.0f} s; "
                    f"see {self._log_path(home)}"
                )
            sleep(POLL_SECONDS)
        self._reap()
        return None

    def _start_new(self, home: Path, account: Account | None) -> _Postmaster:
        binaries = self._reachable_binaries(account)
        major = postgres_major(binaries)
        cluster = home / "cluster"
        for leftover in home.glob(f"{_STAGING}*"):
            shutil.rmtree(leftover)
        if not cluster.exists():
            self._initialise(home, binaries, major, account)
        version = (cluster / "PG_VERSION").read_text().strip()
        if version != str(major):
            raise DataDirectoryUnusable(
                f"{cluster} was created by PostgreSQL {version}, and {binaries} is PostgreSQL {major}: remove {cluster} "
                f"(its data is lost), choose another directory with --data DIR, or install PostgreSQL {version}"
            )
        (cluster / "postmaster.pid").unlink(missing_ok=True)  # the lock proves that no server runs here
        return self._launch(home, binaries / "postgres", account)

    def _reachable_binaries(self, account: Account | None) -> Path:
        binaries = self._binaries or newest_postgres_binaries()
        for name in ("postgres", "initdb"):
            if not (binaries / name).is_file():
                raise BinaryNotFound(
                    f"there is no {name} in {binaries}: choose the bin directory of a PostgreSQL server"
                )
        return placement.runnable(binaries / "postgres", account, bundle=postgres_bundle).parent

    def _initialise(self, home: Path, binaries: Path, major: int, account: Account | None) -> None:
        """Create the cluster in a temporary directory, then rename it."""
        staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=home))
        try:
            placement.change_owner(staging, account)
            password = processes.read_password(home / "password")
            # initdb runs as `account`, which cannot read the original file.
            password_file = staging / "password"
            processes.write_private(password_file, password, account)
            self._run_initdb(binaries, staging / "cluster", password_file, major, account)
            (staging / "cluster").rename(home / "cluster")
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _run_initdb(
        self, binaries: Path, cluster: Path, password_file: Path, major: int, account: Account | None
    ) -> None:
        output = ""
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
            output = done.stderr.decode(errors="replace").strip()
            if "locale" not in output:
                break
        raise ServerNotStarted(
            f"{binaries / 'initdb'} could not create {cluster.parent.parent / 'cluster'}: {output}"
        )

    def _launch(self, home: Path, program: Path, account: Account | None) -> _Postmaster:
        log = self._log or BoundedLog(self._log_path(home))
        for _ in range(_PORT_ATTEMPTS):
            port = processes.choose_port(self._port, home / "port")
            self._write_settings(home / "cluster", port, account)
            start = log.size()
            self._child = processes.spawn(
                [program, "-D", home / "cluster"], directory=home, account=account, log=log
            )
            postmaster = self._ready(home, self._child)
            if postmaster is not None:
                (home / "port").write_text(f"{port}\n")
                return postmaster
            output = log.tail(start)
            if "Address already in use" not in output:
                raise ServerNotStarted(f"PostgreSQL did not start in {home}:\n{output}")
            # Another process took the port between the choice and the start.
        raise PortTaken(
            f"no free port on {LOOPBACK} for PostgreSQL in {home}: other processes take them; start it again"
        )

    def _ready(self, home: Path, child: subprocess.Popen[bytes]) -> _Postmaster | None:
        """Wait until the server is ready. Return ``None`` if it exits instead."""
        deadline = monotonic() + _START_SECONDS
        while child.poll() is None:
            postmaster = _postmaster(home)
            if postmaster and postmaster.ready and postmaster.pid == child.pid:
                return postmaster
            if monotonic() > deadline:
                processes.stop(child.pid, directory=home, steps=_STOP_STEPS[1:], child=child)
                raise ServerNotStarted(
                    f"PostgreSQL in {home} did not become ready within {_START_SECONDS:.0f} s; see {self._log_path(home)}"
                )
            sleep(POLL_SECONDS)
        self._child = None
        return None

    def _write_settings(self, cluster: Path, port: int, account: Account | None) -> None:
        values = {**_SETTINGS, **self._settings, "port": str(port)}
        lines = [f"{name} = '{value.replace(chr(39), chr(39) * 2)}'\n" for name, value in values.items()]
        processes.write_private(
            cluster / "postgresql.conf", "# Rewritten at every start.\n" + "".join(lines), account
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
    """Send an SSLRequest, the only message that needs neither a login nor a driver. The answer is one byte."""
    with suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=_ANSWER_SECONDS) as connection:
        connection.sendall(_SSL_REQUEST)
        return connection.recv(1) in {b"N", b"S"}
    return False


def _locales(major: int) -> Iterator[list[str]]:
    """Yield initdb's locale arguments, best first: bytewise order (fast and portable) with Unicode case mapping."""
    if major >= 17:  # noqa: PLR2004 - has a locale provider that does not depend on the system
        yield ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    else:
        yield ["--locale=C", "--lc-ctype=C.UTF-8"]
        yield ["--locale=C"]
