from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import psycopg
import pytest

from tests.hostile.attack import AttackContext, LeasePair
from tests.hygiene.catalogue import Place
from tests.hygiene.change import Holder, Isolation
from tests.hygiene.conftest import as_plain_role
from tests.hygiene.pool import Pool
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
class AttackPools:
    """The only service of this process's attacks. A request for another version or role replaces it."""

    servers: Servers
    redis_url: str
    _running: tuple[PostgresServer, bool, str, Service] | None = None
    _pairs: dict[Isolation, LeasePair] = field(default_factory=dict)
    _opened: int = 0

    def attack_context(self, place: Place) -> AttackContext:
        """Return the context of this place, with leases for the attacker and a neighbour."""
        server, dsn, service = self._service(place)
        for isolation in ("database", "schema"):  # each has neighbours in the other isolation, too
            if isolation not in self._pairs:
                self._pairs[isolation] = self._pair(service, server, isolation)
        pair = self._pairs[place.isolation]
        return AttackContext(pair, Holder(pair.attacker.subject), self._names(dsn, service))

    def discard(self, isolation: Isolation) -> None:
        """End both leases, so that the next attack begins with new ones."""
        pair = self._pairs.pop(isolation)
        for lease in (pair.attacker, pair.neighbour):
            pair.pool.http.delete(f"/v1/leases/{lease.id}")
        pair.pool.close()

    def log_tail(self) -> str:
        """Return the last lines of the service's log."""
        lines = self._running[3].log.splitlines() if self._running is not None else []
        return "the last lines of the service's log:\n" + "\n".join(lines[-_LAST_LINES:])

    def close(self) -> None:
        for pair in self._pairs.values():
            pair.pool.http.close()
        self._pairs.clear()
        if self._running is not None:
            assert self._running[3].stop() == 0
            self._running = None

    def _service(self, place: Place) -> tuple[PostgresServer, str, Service]:
        if self._running is not None and (self._running[0].major, self._running[1]) != (
            place.major,
            place.plain,
        ):
            self.close()
        if self._running is None:
            server = self.servers.postgres(place.major)
            dsn = as_plain_role(server.dsn) if place.plain else server.dsn
            service = start_service([dsn], self.redis_url, settings=SETTINGS, control=server.dsn)
            self._running = (server, place.plain, dsn, service)
        server, _, dsn, service = self._running
        return server, dsn, service

    def _pair(self, service: Service, server: PostgresServer, isolation: Isolation) -> LeasePair:
        self._opened += 1
        return LeasePair.of(Pool.of(service, server.dsn, isolation, f"hostile{self._opened}", TEMPLATE))

    def _names(self, dsn: str, service: Service) -> dict[str, str]:
        of_database, of_schema = self._pairs["database"], self._pairs["schema"]
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
def attack_pools(servers: Servers, service_redis_url: str) -> Iterator[AttackPools]:
    opened = AttackPools(servers, service_redis_url)
    yield opened
    opened.close()
