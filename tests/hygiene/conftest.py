from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.hygiene.change import Isolation
from tests.hygiene.ground import Ground, Lease
from tests.hygiene.judge import Picture
from tests.servers import PostgresServer, Servers
from tests.services import Service, start_service

TEMPLATE = Path(__file__).with_name("template.sql").read_text(encoding="utf-8")
SETTINGS = {"min_ready": 1, "max_size": 1, "failed_seconds": 1, "connection_limit": 20}


@dataclass(slots=True)
class Stand:
    """A ground with the lease that is clean right now, and what clean looks like."""

    ground: Ground
    clean: Lease
    baseline: Picture


@dataclass(slots=True)
class Grounds:
    """The one service of this process's hygiene tests; another version's takes its place when it is asked for."""

    servers: Servers
    redis_url: str
    _service: tuple[PostgresServer, Service] | None = None
    _stands: dict[Isolation, Stand] = field(default_factory=dict)
    _opened: int = 0

    def service(self, major: int) -> tuple[PostgresServer, Service]:
        if self._service is not None and self._service[0].major != major:
            self.close()
        if self._service is None:
            server = self.servers.postgres(major)
            self._service = (server, start_service([server.dsn], self.redis_url, settings=SETTINGS))
        return self._service

    def open(
        self, major: int, isolation: Isolation, sql: str, name: str = "hygiene", *extensions: str
    ) -> Stand:
        """A new pool, and the picture of its first lease."""
        server, service = self.service(major)
        self._opened += 1
        ground = Ground.of(service, server.dsn, isolation, f"{name}{self._opened}", sql, *extensions)
        first = ground.acquire()
        assert first.generation == 1
        return Stand(ground, first, ground.judge.picture(first.subject))

    def stand(self, major: int, isolation: Isolation) -> Stand:
        """The shared pool of this version and isolation."""
        self.service(major)
        if isolation not in self._stands:
            self._stands[isolation] = self.open(major, isolation, TEMPLATE, "hygiene", *extensions_of(major))
        return self._stands[isolation]

    def abandon(self, isolation: Isolation) -> None:
        """Begin anew with the next test."""
        stand = self._stands.pop(isolation)
        stand.ground.release(stand.clean)
        stand.ground.close()

    def close(self) -> None:
        for stand in self._stands.values():
            stand.ground.http.close()
        self._stands.clear()
        if self._service is not None:
            assert self._service[1].stop() == 0
            self._service = None


def extensions_of(major: int) -> tuple[str, ...]:
    """What the template has: the newer versions' bundle has none that whoever owns a database could create or drop."""
    return ("citext",) if major == 15 else ()


@pytest.fixture(scope="session")
def grounds(servers: Servers, service_redis_url: str) -> Iterator[Grounds]:
    opened = Grounds(servers, service_redis_url)
    yield opened
    opened.close()
