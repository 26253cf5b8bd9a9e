"""Scopes of tokens, and leases of other principals."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import plain_http
from tests.limits import LIMIT_SECONDS
from tests.servers import PostgresServer
from tests.services import start_service

pytestmark = pytest.mark.xdist_group("api-access")  # one service for the tests of this module

TOKENS = "ci:ci-secret dev:dev-secret watcher:watch-secret:read boss:boss-secret:admin"


@pytest.fixture(scope="module")
def url(postgres_18: PostgresServer, service_redis_url: str) -> Iterator[str]:
    service = start_service([postgres_18.dsn], service_redis_url, settings={"tokens": TOKENS})
    answer = plain_http.post(
        f"{service.url}/v1/templates",
        json={"name": "t", "sql": ["select 1"]},
        headers=bearer("ci"),
        timeout=LIMIT_SECONDS,
    )
    answer.raise_for_status()
    yield service.url
    assert "secret" not in service.log
    assert service.stop() == 0


def bearer(name: str) -> dict[str, str]:
    secrets = {"ci": "ci-secret", "dev": "dev-secret", "watcher": "watch-secret", "boss": "boss-secret"}
    return {"authorization": f"Bearer {secrets[name]}"}


def lease_of_ci(url: str) -> dict[str, str]:
    answer = plain_http.post(
        f"{url}/v1/leases", json={"template": "t"}, headers=bearer("ci"), timeout=LIMIT_SECONDS
    )
    assert answer.status_code == 201, answer.text
    lease: dict[str, str] = answer.json()
    assert lease["principal"] == "ci"
    return lease


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "Bearer"},
        {"authorization": "Basic ci-secret"},
        {"authorization": "ci-secret"},
        {"authorization": "Bearer ci-secretandmore"},
    ],
)
def test_request_without_known_token_is_unauthorized(url: str, headers: dict[str, str]) -> None:
    answer = plain_http.get(f"{url}/v1/leases", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert plain_http.get(f"{url}/livez").status_code == 200


def test_lease_of_another_principal_can_be_read_but_not_changed(url: str) -> None:
    lease = lease_of_ci(url)
    for method, path in (("POST", "/renew"), ("POST", "/keep"), ("DELETE", "")):
        answer = plain_http.request(method, f"{url}/v1/leases/{lease['id']}{path}", headers=bearer("dev"))
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        assert "another principal" in answer.json()["detail"]
    shown = plain_http.get(f"{url}/v1/leases/{lease['id']}", headers=bearer("dev"))
    assert shown.json()["password"] is None
    assert lease["password"] not in shown.text
    own = plain_http.get(f"{url}/v1/leases/{lease['id']}", headers=bearer("ci")).json()
    assert own["password"] == lease["password"]
    plain_http.delete(f"{url}/v1/leases/{lease['id']}", headers=bearer("ci")).raise_for_status()


def test_revoke_needs_scope_admin(url: str) -> None:
    lease = lease_of_ci(url)
    where = f"{url}/v1/leases/{lease['id']}?force=true"
    refused = plain_http.delete(where, headers=bearer("dev"))
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    revoked = plain_http.delete(where, headers=bearer("boss"))
    assert revoked.json()["state"] == "revoked"
    assert revoked.json()["end_reason"] == "revoked by boss"
    over = plain_http.post(f"{url}/v1/leases/{lease['id']}/renew", headers=bearer("ci"))
    assert (over.status_code, over.json()["code"]) == (410, "lease_ended")


def test_scope_read_allows_no_changes(url: str) -> None:
    headers = bearer("watcher")
    assert plain_http.get(f"{url}/v1/pools", headers=headers).status_code == 200
    for answer in (
        plain_http.post(f"{url}/v1/leases", json={"template": "t"}, headers=headers),
        plain_http.post(f"{url}/v1/templates", json={"name": "u", "sql": ["select 1"]}, headers=headers),
        plain_http.delete(f"{url}/v1/templates/t", headers=headers),
    ):
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        assert "lacks the scope" in answer.json()["detail"]


def test_idempotency_keys_of_two_principals_are_independent(url: str) -> None:
    body, key = {"template": "t"}, {"idempotency-key": "the same"}
    leases = [
        plain_http.post(
            f"{url}/v1/leases", json=body, headers={**bearer(who), **key}, timeout=LIMIT_SECONDS
        ).json()
        for who in ("ci", "dev")
    ]
    assert leases[0]["id"] != leases[1]["id"]
    for who, lease in zip(("ci", "dev"), leases, strict=True):
        plain_http.delete(f"{url}/v1/leases/{lease['id']}", headers=bearer(who)).raise_for_status()
