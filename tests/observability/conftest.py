"""A real service with traffic, and a real Prometheus that scrapes it."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from freshdb import Client
from tests import plain_http
from tests.limits import LIMIT_SECONDS
from tests.observability.prometheus import Prometheus
from tests.servers import PostgresServer
from tests.services import Service, start_service

SHOP = (
    "create table item (id serial primary key, name text not null);"
    "insert into item (name) values ('apple'), ('pear');"
    "create table sale (id serial primary key, item_id int references item)"
)


@pytest.fixture(scope="module")
def observed(postgres_18: PostgresServer, service_redis_url: str) -> Iterator[Service]:
    """A separate service, which audits every second database."""
    running = start_service(
        [f"main={postgres_18.dsn}"],
        service_redis_url,
        settings={"min_ready": 2, "max_size": 3, "audit_every": 2},
    )
    yield running
    running.stop()


@pytest.fixture(scope="module")
def traffic(observed: Service) -> Iterator[str]:
    """A template with continuous traffic of all kinds during the tests."""
    name = f"shop-{secrets.token_hex(4)}"
    over = threading.Event()
    failures: list[BaseException] = []
    with Client(observed.url, "") as client:
        client.ensure_sql(name, [SHOP])

        def work() -> None:
            try:
                while not over.is_set():
                    some_work(client, name)
            except BaseException as error:
                failures.append(error)
                raise

        worker = threading.Thread(target=work)
        worker.start()
        yield name
        over.set()
        worker.join()
    assert not failures


def some_work(client: Client, name: str) -> None:
    """Use databases of both isolations in all ways, with a lost lease, a queue, and a refusal.

    A temporary template makes the service create and drop databases.
    """
    passing = client.ensure_sql(f"{name}-{secrets.token_hex(4)}", ["create table item (id int)"])
    client.release(client.acquire(passing.name).id)
    for isolation in ("database", "schema"):
        for script in ("select 1", "insert into sale (item_id) values (1)", "create table extra ()"):
            lease = client.acquire(name, isolation=isolation, ttl_seconds=30)
            with psycopg.connect(lease.url, autocommit=True) as connection:
                connection.execute(script)
            client.renew(lease.id)
            client.release(lease.id)
    lost = client.acquire(name, ttl_seconds=1)
    client.revoke(client.acquire(name).id)
    held = [client.acquire(name) for _ in range(2)]
    threads = [threading.Thread(target=lambda: client.release(client.acquire(name).id)) for _ in range(3)]
    for one in threads:
        one.start()
    for lease in held:
        client.release(lease.id)
    for one in threads:
        one.join()
    client.retire(passing.id)
    client.health()
    plain_http.post(f"{client.url}/v1/leases", json={"template": "none"})
    end = time.monotonic() + LIMIT_SECONDS
    while client.get_lease(lost.id).state != "expired":
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.fixture(scope="module")
def prometheus(
    tmp_path_factory: pytest.TempPathFactory, observed: Service, traffic: str
) -> Iterator[Prometheus]:
    """A Prometheus that has scraped the service at least a few times."""
    directory: Path = tmp_path_factory.mktemp("prometheus")
    started = Prometheus.start(directory, [observed.url])
    try:
        started.until(
            lambda: (
                started.instant(f'freshdb_databases{{template=~"{traffic}.*"}}')
                and (started.instant("count_over_time(freshdb_build_info[5m])") or [({}, 0.0)])[0][1] >= 10
            ),
            "nothing is scraped",
        )
        yield started
    finally:
        started.stop()
