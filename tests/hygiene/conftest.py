from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from tests.hygiene import rebuilds
from tests.hygiene.catalogue import Place
from tests.hygiene.change import Isolation
from tests.hygiene.pool import Lease, Pool
from tests.hygiene.snapshot import Snapshot
from tests.servers import PostgresServer, Servers
from tests.services import Service, start_service

TEMPLATE = Path(__file__).with_name("template.sql").read_text(encoding="utf-8")
_LAST_LINES = 15
SETTINGS = {"min_ready": 1, "max_size": 1, "failed_seconds": 1, "connection_limit": 20}


@dataclass(slots=True)
class LeasedPool:
    """A pool with its present, clean lease, and the snapshot of the clean database."""

    pool: Pool
    lease: Lease
    baseline: Snapshot


@dataclass(slots=True)
class LeasedPools:
    """The service of this process's hygiene tests. It is replaced when a test needs another version or role."""

    servers: Servers
    redis_url: str
    _service: tuple[PostgresServer, bool, Service] | None = None
    _leased: dict[Isolation, LeasedPool] = field(default_factory=dict)
    _opened: int = 0

    def service(self, major: int, *, plain: bool = False) -> tuple[PostgresServer, Service]:
        if self._service is not None and (self._service[0].major, self._service[1]) != (major, plain):
            self.close()
        if self._service is None:
            server = self.servers.postgres(major)
            dsn = as_plain_role(server.dsn) if plain else server.dsn
            self._service = (server, plain, start_service([dsn], self.redis_url, settings=SETTINGS))
        server, _, service = self._service
        return server, service

    def open_pool(
        self,
        major: int,
        isolation: Isolation,
        sql: str,
        name: str = "hygiene",
        *extensions: str,
        plain: bool = False,
    ) -> LeasedPool:
        """Open a new pool, and take the snapshot of its first lease."""
        server, service = self.service(major, plain=plain)
        self._opened += 1
        pool = Pool.of(service, server.dsn, isolation, f"{name}{self._opened}", sql, *extensions)
        first = pool.acquire()
        assert first.generation == 1
        return LeasedPool(pool, first, pool.snapshotter.snapshot(first.subject))

    def leased_pool(self, major: int, isolation: Isolation, *, plain: bool = False) -> LeasedPool:
        """Return the shared pool of this version, isolation and role of the service."""
        self.service(major, plain=plain)
        if isolation not in self._leased:
            self._leased[isolation] = self.open_pool(
                major,
                isolation,
                TEMPLATE,
                "hygiene",
                *Place(major, isolation, plain).extensions,
                plain=plain,
            )
        return self._leased[isolation]

    def discard(self, isolation: Isolation) -> None:
        """Use a new pool for the next test."""
        leased = self._leased.pop(isolation)
        leased.pool.release(leased.lease)
        leased.pool.close()

    def log_tail(self) -> str:
        """Return the last lines of the service's log."""
        lines = self._service[2].log.splitlines() if self._service is not None else []
        return "the last lines of the service's log:\n" + "\n".join(lines[-_LAST_LINES:])

    def close(self) -> None:
        for leased in self._leased.values():
            leased.pool.http.close()
        self._leased.clear()
        if self._service is not None:
            assert self._service[2].stop() == 0
            self._service = None


def as_plain_role(dsn: str) -> str:
    """Create a role that may only create databases and roles."""
    role = f"manager_{secrets.token_hex(4)}"
    with psycopg.connect(dsn, autocommit=True) as superuser:
        superuser.execute(f"CREATE ROLE {role} LOGIN CREATEDB CREATEROLE PASSWORD 'plain'")
    parts = urlsplit(dsn)
    return urlunsplit(parts._replace(netloc=f"{role}:plain@{parts.hostname}:{parts.port}"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how often a rebuild answered a change of the matrix. ``make hygiene`` runs all of it."""
    if resets := rebuilds.recorded(terminalreporter.getreports("passed")):
        terminalreporter.section("rebuilds in the hygiene matrix")
        for line in rebuilds.summary(resets):
            terminalreporter.write_line(line)


@pytest.fixture(scope="package")
def leased_pools(servers: Servers, service_redis_url: str) -> Iterator[LeasedPools]:
    opened = LeasedPools(servers, service_redis_url)
    yield opened
    opened.close()
