"""No password, token or URL with one is ever logged: a real service with debug logging, and every kind of call."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import httpx
import psycopg
import pytest

from tests import plain_http
from tests.limits import LIMIT_SECONDS
from tests.servers import PostgresServer
from tests.services import Service, start_service

BOSS: Final = "fdb-boss-token-that-must-stay-secret"
_MEMBERS: Final = {"password", "token", "url", "async_url"}


class Secrets(set[str]):
    """All secrets in responses."""

    def of(self, answer: httpx.Response) -> httpx.Response:
        """Collect the secrets of a response."""
        if answer.headers.get("content-type", "").startswith("application/json"):
            self._take(answer.json())
        return answer

    def _take(self, found: Any) -> None:  # noqa: ANN401 - JSON
        if isinstance(found, list):
            for one in found:
                self._take(one)
        if isinstance(found, dict):
            for name, value in found.items():
                if name in _MEMBERS and isinstance(value, str) and value:
                    self.add(value)
                    if "://" in value and (password := urlsplit(value).password):
                        self.add(unquote(password))
                else:
                    self._take(value)


@pytest.fixture(params=["json", "console"])
def told(request: pytest.FixtureRequest, postgres_18: PostgresServer, redis_url: str) -> Iterator[Service]:
    running = start_service(
        [postgres_18.dsn],
        redis_url,
        settings={
            "tokens": f"boss:{BOSS}:admin",
            "log_format": request.param,
            "log_level": "debug",
            "min_ready": 1,
            "audit_every": 2,
            "failed_attempts": 3,
        },
    )
    yield running
    running.stop()


def test_no_secret_is_ever_logged(told: Service, postgres_18: PostgresServer) -> None:
    seen = Secrets({BOSS})
    for dsn in (postgres_18.dsn, told.control_dsn):
        if password := urlsplit(dsn).password:
            seen |= {unquote(password), dsn}
    with httpx.Client(
        verify=plain_http.NO_CERTIFICATES,
        base_url=told.url,
        timeout=LIMIT_SECONDS,
        headers={"Authorization": f"Bearer {BOSS}"},
    ) as http:
        every_kind_of_call(http, seen)
        every_way_to_fail(http, seen)
    told.stop()
    assert len(seen) > 20
    assert told.log.count("freshdb.access") > 30
    assert [one for one in seen if one in told.log] == []
    assert "SCRAM-SHA-256$" not in told.log


def every_kind_of_call(http: httpx.Client, seen: Secrets) -> None:
    made = seen.of(http.post("/v1/tokens", json={"name": "ci", "scopes": ["lease", "build"]})).json()
    seen.of(http.post(f"/v1/tokens/{made['id']}/rotate", json={}))
    seen.of(http.post("/v1/templates", json={"name": "sql", "sql": ["create table item (id int)"]}))
    built = seen.of(http.post("/v1/templates", json={"name": "built", "fingerprint": "1"})).json()
    build = built["build"]
    with psycopg.connect(build["url"], autocommit=True) as connection:
        connection.execute("create table item (id int)")
    seen.of(http.post(f"/v1/templates/{built['id']}/renew", json={"token": build["token"]}))
    seen.of(http.post(f"/v1/templates/{built['id']}/ready", json={"token": build["token"]}))
    for isolation in ("database", "schema"):
        for script in ("select 1", "insert into item values (1)", "create table extra ()"):
            body = {"template": "built", "isolation": isolation, "wait_seconds": LIMIT_SECONDS}
            lease = seen.of(http.post("/v1/leases", json=body)).json()
            with psycopg.connect(lease["url"], autocommit=True) as connection:
                connection.execute(script)
            seen.of(http.post(f"/v1/leases/{lease['id']}/renew"))
            seen.of(http.post(f"/v1/leases/{lease['id']}/reset"))
            seen.of(http.get(f"/v1/leases/{lease['id']}"))
            seen.of(http.post(f"/v1/leases/{lease['id']}/keep", json={"ttl_seconds": 60}))
            seen.of(http.delete(f"/v1/leases/{lease['id']}"))
    leases = {"leases": [{"template": "sql"}, {"template": "sql"}]}
    batch = seen.of(http.post("/v1/leases/batch", json=leases | {})).json()
    for one in batch.get("items", ()):
        seen.of(http.delete(f"/v1/leases/{one['id']}?force=true"))
    for path in (
        "/v1/leases",
        "/v1/pools",
        "/v1/templates",
        "/v1/tokens",
        "/v1/audit",
        "/metrics",
        "/readyz",
    ):
        seen.of(http.get(path))
    http.get("/v1/events", params={"follow": "false", "since": "0"})


def every_way_to_fail(http: httpx.Client, seen: Secrets) -> None:
    """Send wrong secrets, secrets in wrong places, and malformed bodies."""
    wrong = f"fdb_{secrets.token_urlsafe(24)}"
    seen.add(wrong)
    for _ in range(5):
        http.get("/v1/leases", headers={"Authorization": f"Bearer {wrong}"})
    http.get("/v1/leases", headers={"Authorization": f"Basic {wrong}"})
    for body in (b"{", b"[]", json.dumps({"template": "none", "password": wrong}).encode(), wrong.encode()):
        http.post("/v1/leases", content=body, headers={"Content-Type": "application/json"})
    http.get("/v1/leases", params={"token": wrong})
    http.post("/v1/leases", json={"template": "none"}, headers={"Idempotency-Key": "k" * 300})
    http.post("/v1/leases", json={"template": "sql", "ttl_seconds": -1})
    failed = seen.of(
        http.post("/v1/templates", json={"name": "bad", "sql": [f"select '{wrong}' from nowhere"]})
    )
    assert failed.status_code == 422
    again = seen.of(http.post("/v1/templates", json={"name": "again", "fingerprint": "1"})).json()
    http.post(f"/v1/templates/{again['id']}/ready", json={"token": wrong})
    http.post(f"/v1/templates/{again['id']}/failed", json={"token": again["build"]["token"], "message": "x"})
    http.post(f"/v1/leases/{again['id']}/renew", headers={"X-Request-Id": "late"})
    end = time.monotonic() + LIMIT_SECONDS
    while http.get("/v1/leases", headers={"Authorization": f"Bearer {BOSS}"}).status_code != 200:
        assert time.monotonic() < end
