"""Two replicas of one installation share no database, have one queue, and are not delayed when the other dies."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import psycopg
import pytest

from tests import plain_http
from tests.limits import LIMIT_SECONDS
from tests.servers import PostgresServer
from tests.services import Service, start_service


@pytest.fixture
def replicas(postgres_18: PostgresServer, redis_url: str) -> Iterator[list[Service]]:
    settings = {"min_ready": 1, "max_size": 3, "claim_seconds": 3, "reconciler_seconds": 1}
    first = start_service([postgres_18.dsn], redis_url, settings=settings)
    both = [first, start_service([postgres_18.dsn], redis_url, settings=settings, replica_of=first)]
    sql = ["create table mark (who text)"]
    answer = plain_http.post(
        f"{first.url}/v1/templates", json={"name": "t", "sql": sql}, timeout=LIMIT_SECONDS
    )
    assert answer.status_code == 201, answer.text
    yield both
    for service in both:
        if service.process.poll() is None:
            assert service.stop() == 0


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT_SECONDS
    while not condition():
        assert time.monotonic() < end, "the condition was not met in time"
        time.sleep(0.01)


def lease_all(replicas: list[Service]) -> tuple[str, list[str]]:
    """Lease all databases that the pool may hold."""
    held = []
    for _ in range(3):
        answer = plain_http.post(
            f"{replicas[0].url}/v1/leases",
            json={"template": "t", "wait_seconds": LIMIT_SECONDS},
            timeout=2 * LIMIT_SECONDS,
        )
        assert answer.status_code == 201, answer.text
        held.append(answer.json())
    return held[0]["pool_id"], [lease["id"] for lease in held]


def test_contenders_on_two_replicas_never_share_a_database(replicas: list[Service]) -> None:
    def contend(number: int) -> None:
        service = replicas[number % 2]
        with httpx.Client(
            verify=plain_http.NO_CERTIFICATES, base_url=service.url, timeout=2 * LIMIT_SECONDS
        ) as client:
            for turn in range(3):
                got = client.post("/v1/leases", json={"template": "t", "wait_seconds": LIMIT_SECONDS})
                assert got.status_code == 201, got.text
                with psycopg.connect(got.json()["url"], autocommit=True) as connection:
                    assert connection.execute("select * from mark").fetchall() == []
                    connection.execute("insert into mark values (%s)", (f"{number}-{turn}",))
                    assert connection.execute("select * from mark").fetchall() == [(f"{number}-{turn}",)]
                client.delete(f"/v1/leases/{got.json()['id']}")

    with ThreadPoolExecutor(6) as executor:
        for done in [executor.submit(contend, number) for number in range(6)]:
            done.result()
    [pool] = plain_http.get(f"{replicas[0].url}/v1/pools").json()["items"]
    assert sum(pool["databases"].values()) <= 3


def test_replicas_share_one_queue(replicas: list[Service]) -> None:
    pool, held = lease_all(replicas)
    served: list[int] = []

    def wait_in_queue(number: int) -> None:
        url = replicas[number % 2].url
        got = plain_http.post(
            f"{url}/v1/leases",
            json={"template": "t", "wait_seconds": LIMIT_SECONDS},
            timeout=2 * LIMIT_SECONDS,
        )
        assert got.status_code == 201, got.text
        served.append(number)
        plain_http.delete(f"{url}/v1/leases/{got.json()['id']}", timeout=LIMIT_SECONDS)

    def waiting() -> int:
        return int(plain_http.get(f"{replicas[0].url}/v1/pools/{pool}").json()["waiting"])

    with ThreadPoolExecutor(6) as executor:
        waiters = []
        for number in range(6):
            waiters.append(executor.submit(wait_in_queue, number))
            wait_until(partial(lambda number: waiting() == number + 1, number))
        plain_http.delete(f"{replicas[1].url}/v1/leases/{held[0]}")
        for done in waiters:
            done.result()
    assert served == list(range(6))


def test_killed_replica_delays_no_waiter_and_loses_no_database(replicas: list[Service]) -> None:
    killed, other = replicas
    pool, held = lease_all(replicas)
    with ThreadPoolExecutor(2) as executor:
        first = executor.submit(
            httpx.post,
            f"{killed.url}/v1/leases",
            json={"template": "t", "wait_seconds": LIMIT_SECONDS},
            timeout=2 * LIMIT_SECONDS,
        )
        wait_until(lambda: plain_http.get(f"{other.url}/v1/pools/{pool}").json()["waiting"] == 1)
        second = executor.submit(
            httpx.post,
            f"{other.url}/v1/leases",
            json={"template": "t", "wait_seconds": LIMIT_SECONDS},
            timeout=2 * LIMIT_SECONDS,
        )
        wait_until(lambda: plain_http.get(f"{other.url}/v1/pools/{pool}").json()["waiting"] == 2)
        killed.kill()
        with pytest.raises(httpx.TransportError):
            first.result()
        assert plain_http.delete(f"{other.url}/v1/leases/{held[0]}", timeout=LIMIT_SECONDS).status_code == 200
        got = second.result()
    assert got.status_code == 201, got.text
    for lease in (*held[1:], got.json()["id"]):
        assert plain_http.delete(f"{other.url}/v1/leases/{lease}", timeout=LIMIT_SECONDS).status_code == 200
    wait_until(lambda: set(plain_http.get(f"{other.url}/v1/pools/{pool}").json()["databases"]) == {"ready"})
