from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from tests.hygiene.catalogue import Place
from tests.hygiene.change import Isolation
from tests.hygiene.ground import Ground, Lease
from tests.hygiene.judge import Picture
from tests.servers import PostgresServer, Servers
from tests.services import Service, start_service

TEMPLATE = Path(__file__).with_name("template.sql").read_text(encoding="utf-8")
_LAST_LINES = 15
SETTINGS = {"min_ready": 1, "max_size": 1, "failed_seconds": 1, "connection_limit": 20}


@dataclass(slots=True)
class Stand:
    """A ground with its present, clean lease, and the picture of the clean database."""

    ground: Ground
    clean: Lease
    baseline: Picture


@dataclass(slots=True)
class Grounds:
    """The service of this process's hygiene tests. It is replaced when a test needs another version or role."""

    servers: Servers
    redis_url: str
    _service: tuple[PostgresServer, bool, Service] | None = None
    _stands: dict[Isolation, Stand] = field(default_factory=dict)
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

    def open(
        self,
        major: int,
        isolation: Isolation,
        sql: str,
        name: str = "hygiene",
        *extensions: str,
        plain: bool = False,
    ) -> Stand:
        """Open a new pool, and take the picture of its first lease."""
        server, service = self.service(major, plain=plain)
        self._opened += 1
        ground = Ground.of(service, server.dsn, isolation, f"{name}{self._opened}", sql, *extensions)
        first = ground.acquire()
        assert first.generation == 1
        return Stand(ground, first, ground.judge.picture(first.subject))

    def stand(self, major: int, isolation: Isolation, *, plain: bool = False) -> Stand:
        """Return the shared pool of this version, isolation and role of the service."""
        self.service(major, plain=plain)
        if isolation not in self._stands:
            self._stands[isolation] = self.open(
                major,
                isolation,
                TEMPLATE,
                "hygiene",
                *Place(major, isolation, plain).extensions,
                plain=plain,
            )
        return self._stands[isolation]

    def abandon(self, isolation: Isolation) -> None:
        """Use a new pool for the next test."""
        stand = self._stands.pop(isolation)
        stand.ground.release(stand.clean)
        stand.ground.close()

    def last_words(self) -> str:
        """Return the last lines of the service's log."""
        lines = self._service[2].log.splitlines() if self._service is not None else []
        return "the service's last words:\n" + "\n".join(lines[-_LAST_LINES:])

    def close(self) -> None:
        for stand in self._stands.values():
            stand.ground.http.close()
        self._stands.clear()
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


@pytest.fixture(scope="package")
def grounds(servers: Servers, service_redis_url: str) -> Iterator[Grounds]:
    opened = Grounds(servers, service_redis_url)
    yield opened
    opened.close()
