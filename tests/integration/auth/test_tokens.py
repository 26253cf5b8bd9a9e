"""Tokens are created, rotated and revoked with immediate effect on all replicas."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import psycopg
import pytest

from tests.integration.auth.conftest import Caller, refused, unique, until
from tests.services import Service

pytestmark = pytest.mark.xdist_group("access")  # two services for the tests of this package


def test_new_token_works_on_all_replicas_at_once(boss: Caller) -> None:
    secret, made = boss.create("alice-1", scopes=["read"])
    alice = boss.using(secret)
    for replica in (1, 0):
        assert alice.ask("GET", "/v1/leases", replica=replica).status_code == 200
    assert (made["name"], made["scopes"], made["state"]) == ("alice-1", ["read"], "active")
    assert made["created_by"] == "boss"
    assert made["expires_at"] is None


def test_secret_is_shown_once_and_not_stored(boss: Caller, services: tuple[Service, Service]) -> None:
    secret, made = boss.create()
    reference = made["id"]
    answers = [
        boss.ask("GET", f"/v1/tokens/{reference}").text,
        boss.ask("GET", "/v1/tokens").text,
        boss.ask("GET", f"/v1/audit?subject={reference}").text,
        boss.ask("PATCH", f"/v1/tokens/{reference}", {"max_leases": 1}).text,
    ]
    with psycopg.connect(services[0].control_dsn) as connection:
        for table in ("tokens", "trail"):
            answers += [str(row[0]) for row in connection.execute(f"select {table}::text from {table}")]
    for text in answers:
        assert secret not in text
        assert secret[12:] not in text
    assert made["hint"] == secret[:12]


def test_token_routes_need_the_scope_admin(boss: Caller) -> None:
    secret, made = boss.create(scopes=["read", "lease", "build"])
    other = boss.using(secret)
    for method, path, body in (
        ("POST", "/v1/tokens", {"name": "more", "scopes": ["admin"]}),
        ("GET", "/v1/tokens", None),
        ("GET", f"/v1/tokens/{made['id']}", None),
        ("PATCH", f"/v1/tokens/{made['id']}", {"max_leases": None}),
        ("POST", f"/v1/tokens/{made['id']}/rotate", {}),
        ("DELETE", f"/v1/tokens/{made['id']}", None),
        ("GET", "/v1/audit", None),
    ):
        refused(other.ask(method, path, body), 403, "forbidden")


@pytest.mark.parametrize("replica", [0, 1])
def test_revoked_token_is_refused_on_all_replicas(boss: Caller, replica: int) -> None:
    secret, made = boss.create()
    caller = boss.using(secret)
    lease = caller.acquire(replica=replica)
    gone = boss.ask("DELETE", f"/v1/tokens/{made['name']}")
    assert gone.json()["state"] == "revoked"
    assert gone.json()["revoked_by"] == "boss"
    until(lambda: caller.ask("GET", "/v1/leases", replica=1 - replica).status_code == 401)
    until(lambda: caller.ask("GET", "/v1/leases", replica=replica).status_code == 401)
    refused(caller.ask("POST", f"/v1/leases/{lease['id']}/renew"), 401, "unauthorized")
    assert boss.ask("DELETE", f"/v1/tokens/{made['id']}").status_code == 200  # revoking again is no error
    refused(boss.ask("POST", f"/v1/tokens/{made['id']}/rotate"), 409, "conflict")
    boss.ask("DELETE", f"/v1/leases/{lease['id']}?force=true")


def test_revoked_token_gets_no_lease_from_a_replica_with_an_old_cache(
    boss: Caller, services: tuple[Service, Service]
) -> None:
    secret, made = boss.create()
    caller = boss.using(secret)
    assert caller.ask("GET", "/v1/leases").status_code == 200
    with psycopg.connect(services[0].control_dsn, autocommit=True) as connection:  # without a notification
        connection.execute("update tokens set revoked_at = now() where id = %s", (made["id"],))
    assert caller.ask("GET", "/v1/leases").status_code == 200
    refused(caller.ask("POST", "/v1/leases", {"template": "shop"}), 401, "unauthorized")


def test_revoking_a_token_with_leases_revokes_them(boss: Caller) -> None:
    secret, made = boss.create()
    caller = boss.using(secret)
    leases = [caller.acquire(wait_seconds=30) for _ in range(2)]
    gone = boss.ask("DELETE", f"/v1/tokens/{made['id']}?leases=true").json()
    assert gone["revoked_leases"] == 2
    for lease in leases:
        found = boss.get(f"/v1/leases/{lease['id']}")
        assert (found["state"], found["end_reason"]) == ("revoked", f"the token {made['name']} was revoked")
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(lease["url"])


def test_rotated_token_keeps_its_leases_and_its_old_secret_is_refused(boss: Caller) -> None:
    old, made = boss.create()
    lease = boss.using(old).acquire()
    answer = boss.ask("POST", f"/v1/tokens/{made['name']}/rotate")
    assert answer.status_code == 200, answer.text
    new = answer.json()["token"]
    assert answer.json()["id"] == made["id"]
    before = boss.using(old)
    for replica in (1, 0):
        assert boss.using(new).ask("GET", "/v1/leases", replica=replica).status_code == 200
        until(partial(lambda one: before.ask("GET", "/v1/leases", replica=one).status_code == 401, replica))
    assert boss.using(new).get(f"/v1/leases/{lease['id']}")["password"] == lease["password"]
    boss.using(new).release(lease)


def test_both_secrets_work_during_the_grace_period(boss: Caller, services: tuple[Service, Service]) -> None:
    old, made = boss.create()
    new = boss.ask("POST", f"/v1/tokens/{made['id']}/rotate", {"grace_seconds": 600}).json()["token"]
    for replica in (0, 1):
        for secret in (new, old):
            assert boss.using(secret).ask("GET", "/v1/leases", replica=replica).status_code == 200
    with psycopg.connect(services[0].control_dsn, autocommit=True) as connection:  # end the grace period
        connection.execute("update tokens set previous_until = now() where id = %s", (made["id"],))
    boss.create()  # all replicas reload the tokens
    until(lambda: boss.using(old).ask("GET", "/v1/leases", replica=1).status_code == 401)
    assert boss.using(new).ask("GET", "/v1/leases", replica=1).status_code == 200


def test_expired_token_is_refused(boss: Caller) -> None:
    secret, made = boss.create(expires_seconds=0.4)
    caller = boss.using(secret)
    until(lambda: caller.ask("GET", "/v1/leases").status_code == 401)
    assert boss.get(f"/v1/tokens/{made['id']}")["state"] == "expired"
    assert made["id"] in [one["id"] for one in boss.get("/v1/tokens", state="expired", limit=1000)["items"]]


def test_password_is_shown_only_to_the_holder_and_not_to_an_admin(boss: Caller) -> None:
    alice, bob, root = (
        boss.using(boss.create(scopes=scopes)[0])
        for scopes in (["lease", "read"], ["lease", "read"], ["admin"])
    )
    lease = alice.acquire(holder={"name": "alice"})
    where = f"/v1/leases/{lease['id']}"
    for other in (bob, root, boss):
        shown = other.ask("GET", where)
        assert (shown.json()["password"], shown.json()["url"]) == (None, None)
        assert lease["password"] not in shown.text
        assert lease["password"] not in other.ask("GET", "/v1/leases").text
        for method, path in (("POST", "/renew"), ("POST", "/reset"), ("POST", "/keep"), ("DELETE", "")):
            refused(other.ask(method, where + path), 403, "forbidden")
    assert lease["password"] not in boss.ask("GET", "/v1/audit?limit=1000").text
    assert lease["password"] not in boss.ask("GET", "/v1/events?follow=false").text
    assert alice.get(where)["password"] == lease["password"]
    kept = boss.using(boss.create(scopes=["read"])[0]).ask("GET", where)
    assert kept.json()["password"] is None
    alice.release(lease)


def test_token_name_is_unique_and_never_inherits_leases(boss: Caller) -> None:
    secret, made = boss.create()
    name = made["name"]
    refused(boss.ask("POST", "/v1/tokens", {"name": name}), 409, "conflict")
    refused(boss.ask("POST", "/v1/tokens", {"name": "boss"}), 409, "conflict")  # the settings have this token
    refused(boss.ask("POST", "/v1/tokens", {"name": "anonymous"}), 409, "conflict")
    lease = boss.using(secret).acquire()
    boss.ask("DELETE", f"/v1/tokens/{name}")
    body = refused(boss.ask("POST", "/v1/tokens", {"name": name}), 409, "conflict")
    assert "live leases" in body["detail"]
    boss.ask("DELETE", f"/v1/leases/{lease['id']}?force=true")
    again, _ = boss.create(name)
    assert boss.using(again).get(f"/v1/leases/{lease['id']}")["password"] is None


def test_concurrent_creations_of_one_name_have_one_winner(boss: Caller) -> None:
    name = unique("same")
    with ThreadPoolExecutor(8) as crowd:
        answers = list(
            crowd.map(
                lambda number: boss.ask("POST", "/v1/tokens", {"name": name}, replica=number % 2).status_code,
                range(8),
            )
        )
    assert sorted(answers) == [201] + [409] * 7


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "a b"}, "name"),
        ({"name": "a/b"}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": "ok", "scopes": []}, "scopes"),
        ({"name": "ok", "scopes": ["root"]}, "scopes.0"),
        ({"name": "ok", "expires_seconds": 0}, "expires_seconds"),
        ({"name": "ok", "expires_seconds": 1e12}, "expires_seconds"),
        ({"name": "ok", "max_leases": -1}, "max_leases"),
        ({"name": "ok", "max_leases": 1.5}, "max_leases"),
        ({"name": "ok", "max_ttl_seconds": 0.5}, "max_ttl_seconds"),
        ({"name": "ok", "max_disk_bytes": 2**63}, "max_disk_bytes"),
        ({"name": "ok", "secret": "mine"}, "secret"),
    ],
)
def test_invalid_token_request_names_the_field(boss: Caller, body: object, field: str) -> None:
    problem = refused(boss.ask("POST", "/v1/tokens", body), 422, "invalid_request")
    assert problem["errors"][0]["field"] == field


@pytest.mark.parametrize("reference", ["nobody", "0b0e8a3c-1f5e-4d0c-9a54-6f5d3c2b1a00", "%00", "';--"])
def test_unknown_token_is_not_found(boss: Caller, reference: str) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/rotate"), ("PATCH", "")):
        body: dict[str, object] | None = {} if method in {"POST", "PATCH"} else None
        refused(boss.ask(method, f"/v1/tokens/{reference}{path}", body), 404, "token_not_found")


def test_list_of_tokens_continues_at_its_cursor(boss: Caller) -> None:
    made = [boss.create()[1]["id"] for _ in range(3)]
    found: list[str] = []
    page = boss.get("/v1/tokens", limit=2)
    while True:
        found += [one["id"] for one in page["items"]]
        if page["next"] is None:
            break
        page = boss.get("/v1/tokens", limit=2, cursor=page["next"])
    assert [one for one in found if one in made] == made
    assert len(found) == len(set(found))


def test_wrong_tokens_are_throttled_by_address_and_valid_ones_are_accepted(boss: Caller) -> None:
    address = "198.51.100.7"
    right = boss.using(boss.create()[0], address)
    assert right.ask("GET", "/v1/leases").status_code == 200
    wrong = boss.using("wrong", address)
    for _ in range(5):
        refused(wrong.ask("GET", "/v1/leases"), 401, "unauthorized")
    answer = wrong.ask("GET", "/v1/leases")
    refused(answer, 429, "quota_exceeded", quota="failed_attempts", limit=5)
    assert 1 <= int(answer.headers["retry-after"]) <= 12
    assert right.ask("GET", "/v1/leases").status_code == 200  # the same address
    new = boss.using(boss.create()[0], address)  # and a token that no replica has seen before
    wrong_there = [wrong.ask("GET", "/v1/leases", replica=1).status_code for _ in range(6)]
    assert wrong_there == [401] * 5 + [429]
    assert new.ask("GET", "/v1/leases", replica=1).status_code == 200
    refused(boss.using("wrong", "198.51.100.8").ask("GET", "/v1/leases"), 401, "unauthorized")
    assert (
        boss.using(None, address).ask("GET", "/v1/leases").status_code == 401
    )  # a missing token does not count as an attempt
