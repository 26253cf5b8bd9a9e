"""The pool of the hygiene matrix: a real service, with a pool of one database that is leased again and again.

A test ends with a lease whose database is clean, and the next test makes its change in this lease. After a failed test, the
next one begins with its own pool, so that one failure does not cause another.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import httpx
from prometheus_client.parser import text_string_to_metric_families

from freshdb_service.embedded import postgres_binaries
from tests import plain_http
from tests.hygiene.change import Isolation
from tests.hygiene.snapshot import Snapshotter, Subject
from tests.services import Service

WAIT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease, as the service returned it."""

    id: str
    pool_id: str
    database_id: str
    generation: int
    subject: Subject


def newest_snapshotter() -> Snapshotter:
    binaries = postgres_binaries(18)
    assert binaries is not None
    return Snapshotter(binaries / "pg_dump")


@dataclass(slots=True)
class Pool:
    """One pool of at most one database, and its snapshotter."""

    http: httpx.Client
    superuser: str
    template: str
    isolation: Isolation
    snapshotter: Snapshotter = field(default_factory=newest_snapshotter)

    @classmethod
    def of(
        cls,
        service: Service,
        superuser: str,
        isolation: Isolation,
        template: str,
        sql: str,
        *extensions: str | dict[str, str],
    ) -> Pool:
        """Register the template."""
        http = httpx.Client(verify=plain_http.NO_CERTIFICATES, base_url=service.url, timeout=2 * WAIT_SECONDS)
        answer = http.post(
            "/v1/templates",
            json={
                "name": template,
                "sql": [sql],
                "extensions": list(extensions),
                "wait_seconds": WAIT_SECONDS,
            },
        )
        assert answer.json().get("state") == "ready", answer.text
        return cls(http, superuser, template, isolation)

    def acquire(self) -> Lease:
        """Wait until the database is ready, and lease it."""
        return self.granted(self.request_lease())

    def request_lease(self) -> httpx.Response:
        """Ask for a lease."""
        body = {
            "template": self.template,
            "isolation": self.isolation,
            "wait_seconds": WAIT_SECONDS,
            "ttl_seconds": 3600,
            "holder": {"name": "hygiene"},
        }
        return self.http.post("/v1/leases", json=body)

    def granted(self, answer: httpx.Response) -> Lease:
        """Return the lease of a response."""
        assert answer.status_code == 201, answer.text
        content = answer.json()
        subject = Subject(
            superuser=self.superuser,
            url=content["url"],
            database=content["database"],
            user=content["user"],
            schema=content["schema"],
        )
        return Lease(
            content["id"], content["pool_id"], content["database_id"], content["generation"], subject
        )

    def release(self, lease: Lease) -> None:
        """Release the lease."""
        answer = self.http.delete(f"/v1/leases/{lease.id}")
        assert answer.status_code == 200, answer.text

    def is_being_reset(self, lease: Lease) -> bool:
        """Return whether the pool's database is being reset."""
        databases: dict[str, int] = self.http.get(f"/v1/pools/{lease.pool_id}").json()["databases"]
        return databases.get("resetting") == 1

    def rebuilds(self) -> Counter[str]:
        """Return the number of rebuilds so far, by cause."""
        answer = self.http.get("/metrics")
        assert answer.status_code == 200, answer.text
        counts: Counter[str] = Counter()
        for family in text_string_to_metric_families(answer.text):
            for sample in family.samples:
                if sample.name == "freshdb_rebuilds_total" and sample.labels["isolation"] == self.isolation:
                    counts[sample.labels["reason"]] += int(sample.value)
        return counts

    def next_of(self, lease: Lease) -> Lease:
        """Release the lease, and lease the same database again."""
        self.release(lease)
        next_lease = self.acquire()
        assert (next_lease.database_id, next_lease.generation) == (lease.database_id, lease.generation + 1), (
            next_lease
        )
        return next_lease

    def close(self) -> None:
        """Retire the template, and its pool with it."""
        for one in self.http.get("/v1/templates").json()["items"]:
            if one["name"] == self.template:
                self.http.delete(f"/v1/templates/{one['id']}")
        self.http.close()
