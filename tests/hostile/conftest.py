from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import psycopg
import pytest

from tests.hostile.attack import Scene, Stand
from tests.hygiene.catalogue import Place
from tests.hygiene.change import Holder, Isolation
from tests.hygiene.conftest import as_plain_role
from tests.hygiene.ground import Ground
from tests.servers import PostgresServer, Servers
from tests.services import Service, start_service

TEMPLATE = """
CREATE TABLE note (id serial PRIMARY KEY, body text);
CREATE TABLE person (id integer PRIMARY KEY, name text);
INSERT INTO person VALUES (1, 'Ada'), (2, 'Grace');
CREATE FUNCTION count_people() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM person';
"""
CONNECTION_LIMIT = 10
SETTINGS = {
    "min_ready": 2,
    "max_size": 2,
    "failed_seconds": 1,
    "connection_limit": CONNECTION_LIMIT,
    "temp_file_bytes": 2**20,
    "audit_every": 0,
}
_LAST_LINES = 20


@dataclass(slots=True)
class Arena:
    """The only service of this process's attacks. A request for another version or role replaces it."""

    servers: Servers
    redis_url: str
    _there: tuple[PostgresServer, bool, str, Service] | None = None
    _stands: dict[Isolation, Stand] = field(default_factory=dict)
    _opened: int = 0

    def scene(self, place: Place) -> Scene:
        """Return the scene of this place, with leases for the attacker and a neighbour."""
        server, dsn, service = self._service(place)
        for isolation in ("database", "schema"):  # each has neighbours in the other isolation, too
            if isolation not in self._stands:
                self._stands[isolation] = self._stand(service, server, isolation)
        stand = self._stands[place.isolation]
        return Scene(stand, Holder(stand.attacker.subject), self._names(dsn, service))

    def abandon(self, isolation: Isolation) -> None:
        """End both leases, so that the next attack begins with new ones."""
        stand = self._stands.pop(isolation)
        for lease in (stand.attacker, stand.neighbour):
            stand.ground.http.delete(f"/v1/leases/{lease.id}")
        stand.ground.close()

    def last_words(self) -> str:
        """Return the last lines of the service's log."""
        lines = self._there[3].log.splitlines() if self._there is not None else []
        return "the service's last words:\n" + "\n".join(lines[-_LAST_LINES:])

    def close(self) -> None:
        for stand in self._stands.values():
            stand.ground.http.close()
        self._stands.clear()
        if self._there is not None:
            assert self._there[3].stop() == 0
            self._there = None

    def _service(self, place: Place) -> tuple[PostgresServer, str, Service]:
        if self._there is not None and (self._there[0].major, self._there[1]) != (place.major, place.plain):
            self.close()
        if self._there is None:
            server = self.servers.postgres(place.major)
            dsn = as_plain_role(server.dsn) if place.plain else server.dsn
            service = start_service([dsn], self.redis_url, settings=SETTINGS, control=server.dsn)
            self._there = (server, place.plain, dsn, service)
        server, _, dsn, service = self._there
        return server, dsn, service

    def _stand(self, service: Service, server: PostgresServer, isolation: Isolation) -> Stand:
        self._opened += 1
        return Stand.of(Ground.of(service, server.dsn, isolation, f"hostile{self._opened}", TEMPLATE))

    def _names(self, dsn: str, service: Service) -> dict[str, str]:
        of_database, of_schema = self._stands["database"], self._stands["schema"]
        with psycopg.connect(service.control_dsn, autocommit=True) as control:
            [(installation,)] = control.execute("SELECT id FROM installation").fetchall()
            [(template,)] = control.execute(
                "SELECT t.database_name FROM pools p JOIN templates t ON t.id = p.template_id WHERE p.id = %s",
                [of_database.attacker.pool_id],
            ).fetchall()
        shared = of_schema.attacker.subject.database
        return {
            "service_dsn": dsn,
            "prefix": service.prefix,
            "control": f"{service.prefix}_control",
            "installation": str(installation),
            "template": template,
            "builder": template,
            "database_of_another": of_database.neighbour.subject.database,
            "shared_of_another": shared,
            "seed": shared.replace("_h_", "_seed_"),
            "connection_limit": str(CONNECTION_LIMIT),
        }


@pytest.fixture(scope="package")
def arena(servers: Servers, service_redis_url: str) -> Iterator[Arena]:
    opened = Arena(servers, service_redis_url)
    yield opened
    opened.close()
