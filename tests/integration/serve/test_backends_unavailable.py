"""While PostgreSQL or Redis is unavailable, the service reports it, loses nothing, and recovers automatically."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

from freshdb_service.embedded import EmbeddedPostgres, EmbeddedRedis
from tests import plain_http
from tests.limits import LIMIT_SECONDS
from tests.services import Service, start_service


@pytest.fixture
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="freshdb-away-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def postgres_alone(directory: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(directory / "postgres")
    yield server
    asyncio.run(server.stop())


@pytest.fixture
def redis_alone(directory: Path) -> Iterator[EmbeddedRedis]:
    server = EmbeddedRedis(directory / "redis")
    yield server
    asyncio.run(server.stop())


@pytest.fixture
def alone(postgres_alone: EmbeddedPostgres, redis_alone: EmbeddedRedis) -> Iterator[Service]:
    dsn, url = asyncio.run(postgres_alone.start()), asyncio.run(redis_alone.start())
    service = start_service([dsn], url)
    answer = plain_http.post(
        f"{service.url}/v1/templates",
        json={"name": "t", "sql": ["create table t (id int)"]},
        timeout=LIMIT_SECONDS,
    )
    assert answer.status_code == 201, answer.text
    yield service
    assert service.stop() == 0


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT_SECONDS
    while not condition():
        assert time.monotonic() < end, "the condition did not become true"
        time.sleep(0.02)


def acquire(service: Service) -> httpx.Response:
    return plain_http.post(
        f"{service.url}/v1/leases",
        json={"template": "t", "wait_seconds": LIMIT_SECONDS},
        timeout=LIMIT_SECONDS,
    )


def away(answer: httpx.Response) -> None:
    assert (answer.status_code, answer.json()["code"]) == (503, "backend_unavailable"), answer.text
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["detail"]


def test_service_recovers_when_redis_returns_empty(alone: Service, redis_alone: EmbeddedRedis) -> None:
    lease = acquire(alone).json()
    asyncio.run(redis_alone.stop())
    refused = acquire(alone)
    away(refused)
    assert "Redis" in refused.json()["detail"]
    away(plain_http.post(f"{alone.url}/v1/leases/{lease['id']}/renew", timeout=LIMIT_SECONDS))
    ready = plain_http.get(f"{alone.url}/readyz", timeout=LIMIT_SECONDS)
    assert (ready.status_code, ready.json()["status"]) == (503, "unavailable")
    assert "Redis" in ready.json()["checks"]["redis"]
    assert plain_http.get(f"{alone.url}/livez").status_code == 200
    with psycopg.connect(lease["url"]) as connection:  # the holder is not affected
        connection.execute("select * from t")
    asyncio.run(redis_alone.start())
    until(
        lambda: (
            plain_http.post(f"{alone.url}/v1/leases/{lease['id']}/renew", timeout=LIMIT_SECONDS).status_code
            == 200
        )
    )
    until(lambda: acquire(alone).status_code == 201)


def test_service_recovers_when_postgresql_returns(alone: Service, postgres_alone: EmbeddedPostgres) -> None:
    lease = acquire(alone).json()
    asyncio.run(postgres_alone.stop())
    away(acquire(alone))
    ready = plain_http.get(f"{alone.url}/readyz", timeout=LIMIT_SECONDS)
    assert ready.status_code == 503
    renewed = plain_http.post(f"{alone.url}/v1/leases/{lease['id']}/renew", timeout=LIMIT_SECONDS)
    assert renewed.status_code == 200  # heartbeats need Redis only
    asyncio.run(postgres_alone.start())
    until(lambda: plain_http.get(f"{alone.url}/readyz", timeout=LIMIT_SECONDS).status_code == 200)
    with psycopg.connect(lease["url"]) as connection:
        connection.execute("select * from t")
    until(lambda: acquire(alone).status_code == 201)
    assert plain_http.delete(f"{alone.url}/v1/leases/{lease['id']}", timeout=LIMIT_SECONDS).status_code == 200
