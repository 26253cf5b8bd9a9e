"""Two replicas of a closed installation, whose first token is in the settings."""

from __future__ import annotations

import itertools
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests import plain_http
from tests.limits import LIMIT_SECONDS
from tests.servers import PostgresServer
from tests.services import Service, start_service

BOSS = "boss-secret"
_HOSTS = itertools.count()
TEMPLATE = "shop"


@dataclass(frozen=True, slots=True)
class Caller:
    """A client of both replicas, with one token and one address."""

    replicas: tuple[httpx.Client, httpx.Client]
    token: str | None
    address: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        given = {} if self.token is None else {"authorization": f"Bearer {self.token}"}
        return given | ({} if self.address is None else {"x-forwarded-for": self.address})

    def ask(
        self, method: str, path: str, body: object = None, *, replica: int = 0, **headers: str
    ) -> httpx.Response:
        return self.replicas[replica].request(
            method,
            path,
            json=body,
            headers={**self.headers, **{key.replace("_", "-"): headers[key] for key in headers}},
        )

    def get(self, path: str, **parameters: object) -> dict[str, Any]:
        answer = self.replicas[0].get(
            path, params={k: str(v) for k, v in parameters.items()}, headers=self.headers
        )
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def acquire(self, *, replica: int = 0, **body: object) -> dict[str, Any]:
        answer = self.ask("POST", "/v1/leases", {"template": TEMPLATE, **body}, replica=replica)
        assert answer.status_code == 201, answer.text
        lease: dict[str, Any] = answer.json()
        return lease

    def release(self, lease: Mapping[str, Any]) -> None:
        answer = self.ask("DELETE", f"/v1/leases/{lease['id']}")
        assert answer.status_code == 200, answer.text

    def create(self, name: str | None = None, **body: object) -> tuple[str, dict[str, Any]]:
        """Create a token, and return its secret and its properties."""
        answer = self.ask("POST", "/v1/tokens", {"name": name or unique("token"), **body})
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made.pop("token"), made

    def using(self, token: str | None, address: str | None = None) -> Caller:
        """Create another caller, by default with its own address, because failed attempts are counted by address."""
        return Caller(self.replicas, token, address or f"192.0.2.{next(_HOSTS) % 256}")


def unique(what: str) -> str:
    return f"{what}-{secrets.token_hex(4)}"


def refused(answer: httpx.Response, status: int, code: str, **extra: object) -> dict[str, Any]:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    body: dict[str, Any] = answer.json()
    assert {key: body[key] for key in extra} == extra
    return body


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT_SECONDS
    while not condition():
        assert time.monotonic() < end, "the condition did not become true"
        time.sleep(0.01)


SETTINGS = {
    "tokens": f"boss:{BOSS}:admin",
    "trusted_proxies": "127.0.0.1",
    "failed_attempts": 5,
    "trail_flush_seconds": 0.2,
    "min_ready": 1,
    "reconciler_seconds": 0.5,
    "token_refresh_seconds": 600,  # immediate changes must come from notifications or reloads for unknown tokens
}


@pytest.fixture(scope="package")
def services(postgres_18: PostgresServer, service_redis_url: str) -> Iterator[tuple[Service, Service]]:
    first = start_service([postgres_18.dsn], service_redis_url, settings=SETTINGS)
    second = start_service([postgres_18.dsn], service_redis_url, settings=SETTINGS, replica_of=first)
    yield first, second
    for one in (first, second):
        assert one.stop() == 0
        assert not re.search(r"fdb_[0-9A-Za-z]{46}", one.log)
        assert BOSS not in one.log


@pytest.fixture(scope="package")
def boss(services: tuple[Service, Service]) -> Iterator[Caller]:
    with (
        httpx.Client(
            verify=plain_http.NO_CERTIFICATES, base_url=services[0].url, timeout=LIMIT_SECONDS
        ) as one,
        httpx.Client(
            verify=plain_http.NO_CERTIFICATES, base_url=services[1].url, timeout=LIMIT_SECONDS
        ) as other,
    ):
        caller = Caller((one, other), BOSS)
        sql = ["create table item (id serial primary key)"]
        made = caller.ask("POST", "/v1/templates", {"name": TEMPLATE, "sql": sql})
        assert made.status_code == 201, made.text
        yield caller
