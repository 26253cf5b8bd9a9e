"""Running services for tests: the real command in a process of its own, on the run's real servers.

Each service is an installation of its own (control database, object prefix, Redis database), so that any number of them
can use the same servers side by side.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import redis

from tests.environments import WARNINGS_AS_ERRORS
from tests.forked_service import ForkedService
from tests.limits import LIMIT_SECONDS

FORKED = False
"""Fork services that have no variables of their own. Tests do so, benchmarks do not."""
START_SECONDS = LIMIT_SECONDS
STOP_SECONDS = LIMIT_SECONDS


@dataclass(slots=True)
class Service:
    """One replica."""

    url: str
    data: Path
    prefix: str
    control_dsn: str
    redis_url: str
    process: subprocess.Popen[bytes] | ForkedService
    log_path: Path
    arguments: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def log(self) -> str:
        """The text of its log."""
        return self.log_path.read_text()

    def stop(self) -> int:
        """Stop it with a signal, and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def kill(self) -> None:
        """Kill it (SIGKILL)."""
        self.process.kill()
        self.process.wait()


def start_service(
    postgres: Sequence[str],
    redis_url: str,
    *,
    settings: Mapping[str, object] | None = None,
    arguments: Sequence[str] = (),
    replica_of: Service | None = None,
    control: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Service:
    """Start a replica and wait until it answers.

    Args:
        postgres: DSNs of managed servers.
        redis_url: URL of Redis.
        settings: further settings, by the name of the field.
        arguments: further arguments of the command.
        replica_of: a replica whose installation the new one serves.
        control: DSN of the server of the control plane's database, by default the first one.
        environment: further variables.
    """
    data = Path(tempfile.mkdtemp(prefix="freshdb-service-"))
    prefix = replica_of.prefix if replica_of else f"fdb{secrets.token_hex(4)}"
    where = control or _dsn(postgres[0])
    control = replica_of.control_dsn if replica_of else with_database(where, f"{prefix}_control")
    if replica_of is None:
        with psycopg.connect(where, autocommit=True) as connection:
            connection.execute(f'create database "{prefix}_control"')
    variables = {
        **{name: value for name, value in os.environ.items() if not name.startswith("FRESHDB_")},
        **WARNINGS_AS_ERRORS,
        "FRESHDB_LOG_FORMAT": "console",
        "FRESHDB_PREFIX": prefix,
        "FRESHDB_REDIS": redis_url,
        "FRESHDB_POSTGRES": " ".join(postgres),
        "FRESHDB_CONTROL": control,
        "FRESHDB_ADOPT": " ".join(_name(dsn) for dsn in postgres),
        **{f"FRESHDB_{name.upper()}": str(value) for name, value in (settings or {}).items()},
        **(environment or {}),
    }
    options = ["--data", str(data), "--port", "0", *arguments]
    command = [sys.executable, "-m", "freshdb_service", *options]
    log_path = data / "service.log"
    process: subprocess.Popen[bytes] | ForkedService
    with log_path.open("wb") as log:
        if FORKED and not environment:
            process = ForkedService(options, variables, log_path)
        else:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=variables,
                start_new_session=True,
            )
    url = _announced(data, process, log_path)
    return Service(url, data, prefix, control, redis_url, process, log_path, command, variables)


def make_due(service: Service, lease_id: str) -> None:
    """Set the deadline of a lease to a time in the past."""
    with psycopg.connect(service.control_dsn) as control:
        row = control.execute("select id from installation").fetchone()
    assert row is not None
    with redis.Redis.from_url(service.redis_url) as connection:
        assert connection.zadd(f"freshdb:{{{row[0]}}}:deadlines", {lease_id: 1}, xx=True, ch=True) == 1


def with_database(dsn: str, name: str) -> str:
    """Return a DSN for another database of the same server."""
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))


def _dsn(address: str) -> str:
    head, separator, tail = address.partition("=")
    return tail if separator and "://" not in head else address


def _name(address: str) -> str:
    dsn = _dsn(address)
    if dsn != address:
        return address.partition("=")[0]
    parts = urlsplit(dsn)
    return f"{parts.hostname}:{parts.port or 5432}"


def _announced(data: Path, process: subprocess.Popen[bytes] | ForkedService, log_path: Path) -> str:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"the service ended with {process.returncode}:\n{log_path.read_text()}")
        try:
            announced: dict[str, str] = json.loads((data / "service.json").read_text())
        except (OSError, ValueError):
            time.sleep(0.01)
            continue
        return announced["url"]
    process.kill()
    raise RuntimeError(f"the service did not become ready:\n{log_path.read_text()}")
