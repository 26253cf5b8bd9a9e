"""A replica that dies during a reset hardly delays the waiters, however long its claims last."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import psycopg

from tests import plain_http
from tests.faults.proxy import Proxy
from tests.limits import LIMIT_SECONDS
from tests.servers import PostgresServer
from tests.services import Service, start_service

SETTINGS = {"min_ready": 1, "max_size": 1, "claim_seconds": 600}


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT_SECONDS
    while not condition():
        assert time.monotonic() < end, "the condition was not met in time"
        time.sleep(0.01)


def claimed(service: Service) -> list[tuple[object, ...]]:
    with psycopg.connect(service.control_dsn) as connection:
        return connection.execute("select state from databases where claimed_until is not null").fetchall()


def locks(service: Service) -> int:
    with psycopg.connect(service.control_dsn) as connection:
        row = connection.execute(
            "select count(*) from pg_locks where locktype = 'advisory' and database = "
            "(select oid from pg_database where datname = current_database())"
        ).fetchone()
    assert row is not None
    return int(row[0])


def test_waiter_is_served_soon_after_the_resetting_replica_dies(
    postgres_18: PostgresServer, redis_url: str
) -> None:
    with Proxy(postgres_18.dsn) as proxy, ThreadPoolExecutor(1) as executor:
        control = postgres_18.dsn
        killed = start_service([f"one={proxy.url}"], redis_url, settings=SETTINGS, control=control)
        others = [
            start_service([f"one={postgres_18.dsn}"], redis_url, settings=SETTINGS, replica_of=killed)
            for _ in range(2)
        ]
        try:
            plain_http.post(
                f"{killed.url}/v1/templates", json={"name": "t", "sql": ["select 1"]}, timeout=LIMIT_SECONDS
            ).raise_for_status()
            held = plain_http.post(
                f"{killed.url}/v1/leases", json={"template": "t"}, timeout=LIMIT_SECONDS
            ).json()
            waiting = executor.submit(
                httpx.post,
                f"{others[0].url}/v1/leases",
                json={"template": "t", "wait_seconds": 20},
                timeout=LIMIT_SECONDS,
            )
            wait_until(lambda: plain_http.get(f"{others[0].url}/v1/pools").json()["items"][0]["waiting"] == 1)
            proxy.drop_all()  # no statement of the killed replica on the database returns any more
            released = plain_http.delete(f"{killed.url}/v1/leases/{held['id']}", timeout=LIMIT_SECONDS)
            assert released.status_code == 200, released.text
            wait_until(lambda: claimed(killed) == [("resetting",)] and locks(killed) == 1)
            time.sleep(1.5)  # it is alive, so no other replica takes over its work
            assert claimed(killed) == [("resetting",)]
            assert not waiting.done()
            killed.kill()
            got = waiting.result()
            assert got.status_code == 201, got.text
        finally:
            for service in (killed, *others):
                if service.process.poll() is None:
                    assert service.stop() == 0
