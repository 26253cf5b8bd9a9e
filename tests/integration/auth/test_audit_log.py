"""The audit log has an entry for every action with its principal and address, and no entry without an action."""

from __future__ import annotations

import httpx
import psycopg
import pytest

from tests import plain_http
from tests.integration.auth.conftest import SETTINGS, Caller, refused, unique, until
from tests.limits import LIMIT_SECONDS
from tests.services import Service, start_service

pytestmark = pytest.mark.xdist_group("access")  # two services for the tests of this package


def audit_log(boss: Caller, **wanted: object) -> list[tuple[str, str | None, str | None]]:
    """Return action, principal and address of the entries, oldest first."""
    items = boss.get("/v1/audit", limit=1000, **wanted)["items"]
    return [(one["action"], one["principal"], one["address"]) for one in reversed(items)]


def test_all_actions_on_a_lease_are_logged_with_principal_and_address(boss: Caller) -> None:
    secret, made = boss.create()
    name = made["name"]
    runner, laptop = boss.using(secret, "198.51.100.1"), boss.using(secret, "2001:db8::1")
    lease = runner.acquire(holder={"name": "nightly"})
    where = f"/v1/leases/{lease['id']}"
    assert laptop.ask("POST", f"{where}/reset", replica=1).status_code == 200
    assert laptop.ask("POST", f"{where}/keep", {"reason": "a look"}).status_code == 200
    runner.release(lease)
    assert audit_log(boss, subject=lease["id"]) == [
        ("lease.acquired", name, "198.51.100.1"),
        ("lease.reset", name, "2001:db8::1"),
        ("lease.kept", name, "2001:db8::1"),
        ("lease.released", name, "198.51.100.1"),
    ]
    acquired = boss.get("/v1/audit", subject=lease["id"], action="lease.acquired")["items"][0]
    assert acquired["label"] == lease["template"]
    assert acquired["details"]["holder"] == {"name": "nightly"}
    assert acquired["details"]["login"] == lease["user"]
    assert acquired["details"]["database"] == lease["database"]


def test_revocation_is_logged_with_the_revoker_and_not_the_holder(boss: Caller) -> None:
    secret, made = boss.create()
    lease = boss.using(secret, "198.51.100.1").acquire()
    boss.using(boss.token, "203.0.113.9").ask("DELETE", f"/v1/leases/{lease['id']}?force=true")
    [_, revoked] = boss.get("/v1/audit", subject=lease["id"])["items"][::-1]
    assert (revoked["action"], revoked["principal"], revoked["address"]) == (
        "lease.revoked",
        "boss",
        "203.0.113.9",
    )
    assert revoked["details"]["held_by"] == made["name"]


def test_expiry_is_logged_without_a_principal(boss: Caller) -> None:
    secret, made = boss.create()
    lease = boss.using(secret, "198.51.100.1").acquire(ttl_seconds=1)
    until(lambda: len(audit_log(boss, subject=lease["id"])) == 2)
    assert audit_log(boss, subject=lease["id"])[1] == ("lease.expired", None, None)
    assert audit_log(boss, principal=made["name"]) == [("lease.acquired", made["name"], "198.51.100.1")]


def test_equal_heartbeats_become_one_entry_with_a_count(boss: Caller) -> None:
    secret, _ = boss.create()
    one, other = boss.using(secret, "198.51.100.1"), boss.using(secret, "198.51.100.2")
    lease = one.acquire()
    for caller, times in ((one, 7), (other, 2)):
        for _ in range(times):
            assert caller.ask("POST", f"/v1/leases/{lease['id']}/renew").status_code == 200

    def heartbeats() -> dict[str, int]:
        found: dict[str, int] = {}
        for record in boss.get("/v1/audit", subject=lease["id"], action="lease.renewed")["items"]:
            assert record["details"]["first_at"] <= record["at"]
            found[record["address"]] = found.get(record["address"], 0) + record["details"]["count"]
        return found

    until(lambda: heartbeats() == {"198.51.100.1": 7, "198.51.100.2": 2})
    records = boss.get("/v1/audit", subject=lease["id"], action="lease.renewed")["items"]
    assert len(records) < 9
    one.release(lease)


def test_changes_of_templates_and_pools_are_logged(boss: Caller) -> None:
    name = unique("audited")
    builder = boss.using(boss.create(scopes=["build"])[0], "198.51.100.1")
    made = builder.ask("POST", "/v1/templates", {"name": name, "fingerprint": "1"}).json()
    failed = builder.ask(
        "POST", f"/v1/templates/{made['id']}/failed", {"token": made["build"]["token"], "message": "no"}
    )
    assert failed.json()["state"] == "failed"
    again = builder.ask("POST", "/v1/templates", {"name": name, "fingerprint": "1"}).json()
    ready = builder.ask("POST", f"/v1/templates/{made['id']}/ready", {"token": again["build"]["token"]})
    assert ready.json()["state"] == "ready", ready.text
    [pool] = [one for one in boss.get("/v1/pools", limit=1000)["items"] if one["template_id"] == made["id"]]
    boss.ask("PATCH", f"/v1/pools/{pool['id']}", {"min_ready": 0})
    refused(
        boss.ask("PATCH", f"/v1/pools/{pool['id']}", {"min_ready": 9, "max_size": 1}), 422, "invalid_request"
    )
    boss.ask("DELETE", f"/v1/templates/{name}")
    actions = [one[0] for one in audit_log(boss, subject=made["id"])]
    assert actions == [f"template.{how}" for how in ("building", "failed", "building", "ready", "retired")]
    assert [one[1:] for one in audit_log(boss, subject=made["id"], action="template.ready")] == [
        (audit_log(boss, subject=made["id"])[0][1], "198.51.100.1")
    ]
    [resized] = boss.get("/v1/audit", subject=pool["id"])["items"]
    assert (resized["action"], resized["details"]) == ("pool.resized", {"min_ready": 0})
    assert resized["label"] == f"{name}@1"


def test_changes_of_tokens_are_logged(boss: Caller) -> None:
    _, made = boss.create(max_leases=5, scopes=["read"])
    where = f"/v1/tokens/{made['id']}"
    boss.ask("POST", f"{where}/rotate", {"grace_seconds": 5})
    boss.ask("PATCH", where, {"max_leases": None})
    boss.ask("DELETE", where)
    boss.ask("DELETE", where)  # revoking again adds no entry
    items = boss.get("/v1/audit", subject=made["id"])["items"][::-1]
    assert [one["action"] for one in items] == [
        f"token.{how}" for how in ("created", "rotated", "changed", "revoked")
    ]
    assert {one["principal"] for one in items} == {"boss"}
    assert items[0]["details"] == {"scopes": ["read"], "expires_seconds": None, "quotas": {"max_leases": 5}}
    assert items[2]["details"] == {"max_leases": None}


def test_refusals_are_logged(boss: Caller) -> None:
    secret, made = boss.create(scopes=["read"])
    reader = boss.using(secret, "198.51.100.77")
    for _ in range(3):
        refused(reader.ask("POST", "/v1/leases", {"template": "shop"}), 403, "forbidden")
    refused(boss.using(None, "198.51.100.78").ask("GET", "/v1/leases"), 401, "unauthorized")
    until(lambda: len(audit_log(boss, address="198.51.100.78")) == 1)
    assert audit_log(boss, address="198.51.100.78") == [("access.unauthorized", None, "198.51.100.78")]
    until(
        lambda: (
            sum(one["details"]["count"] for one in boss.get("/v1/audit", address="198.51.100.77")["items"])
            == 3
        )
    )
    assert set(audit_log(boss, address="198.51.100.77")) == {
        ("access.forbidden", made["name"], "198.51.100.77")
    }


def test_failed_acquire_is_not_logged(boss: Caller) -> None:
    secret, made = boss.create(max_leases=0)
    caller = boss.using(secret)
    refused(caller.ask("POST", "/v1/leases", {"template": "shop"}), 429, "quota_exceeded")
    lease = boss.acquire()
    refused(caller.ask("DELETE", f"/v1/leases/{lease['id']}"), 403, "forbidden")
    refused(caller.ask("POST", f"/v1/leases/{lease['id']}/keep"), 403, "forbidden")
    assert audit_log(boss, principal=made["name"], action="lease.*") == []
    boss.release(lease)


def test_killed_replica_loses_no_entry_of_a_lease(boss: Caller, services: tuple[Service, Service]) -> None:
    settings = {**SETTINGS, "trail_flush_seconds": 600}
    dsns = services[0].environment["FRESHDB_POSTGRES"].split()
    doomed = start_service(dsns, services[0].redis_url, settings=settings, replica_of=services[0])
    with httpx.Client(
        verify=plain_http.NO_CERTIFICATES, base_url=doomed.url, headers=boss.headers, timeout=LIMIT_SECONDS
    ) as http:
        lease = http.post("/v1/leases", json={"template": "shop"}).json()
        http.post(f"/v1/leases/{lease['id']}/renew").raise_for_status()
        http.delete(f"/v1/leases/{lease['id']}").raise_for_status()
    doomed.kill()
    assert [one[0] for one in audit_log(boss, subject=lease["id"])] == ["lease.acquired", "lease.released"]


def test_stopping_replica_writes_its_buffered_entries(
    boss: Caller, services: tuple[Service, Service]
) -> None:
    secret, made = boss.create()
    assert boss.get(f"/v1/tokens/{made['id']}")["last_used_at"] is None
    settings = {**SETTINGS, "trail_flush_seconds": 600}
    dsns = services[0].environment["FRESHDB_POSTGRES"].split()
    third = start_service(dsns, services[0].redis_url, settings=settings, replica_of=services[0])
    headers = {"authorization": f"Bearer {secret}"}
    with httpx.Client(
        verify=plain_http.NO_CERTIFICATES, base_url=third.url, headers=headers, timeout=LIMIT_SECONDS
    ) as http:
        lease = http.post("/v1/leases", json={"template": "shop"}).json()
        http.post(f"/v1/leases/{lease['id']}/renew").raise_for_status()
    assert third.stop() == 0
    assert [one[0] for one in audit_log(boss, subject=lease["id"])] == ["lease.acquired", "lease.renewed"]
    assert boss.get(f"/v1/tokens/{made['id']}")["last_used_at"] is not None
    boss.using(secret).release(lease)


def test_audit_log_is_paged_newest_first(boss: Caller) -> None:
    _, made = boss.create()
    for number in range(4):
        boss.ask("PATCH", f"/v1/tokens/{made['id']}", {"max_leases": number})
    page = boss.get("/v1/audit", subject=made["id"], limit=2)
    found = page["items"]
    while page["next"]:
        page = boss.get("/v1/audit", subject=made["id"], limit=2, cursor=page["next"])
        found += page["items"]
    assert [one["details"].get("max_leases") for one in found] == [3, 2, 1, 0, None]
    since, until_ = found[3]["at"], found[1]["at"]
    between = boss.get("/v1/audit", subject=made["id"], since=since, until=until_)["items"]
    assert [one["id"] for one in between] == [found[2]["id"], found[3]["id"]]
    labelled = boss.get("/v1/audit", label=made["name"], action="token.created")["items"]
    assert [one["id"] for one in labelled] == [found[4]["id"]]


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("action", "drop table"),
        ("action", "*"),
        ("subject", "shop"),
        ("since", "yesterday"),
        ("since", "2026-05-01T12:00:00"),  # without a time zone
        ("since", "0001-01-01T00:00:00+14:00"),
        ("until", "9999-12-31T23:59:59-14:00"),
        ("principal", "a\x00b"),
        ("cursor", "nonsense"),
        ("limit", "0"),
    ],
)
def test_invalid_filter_is_refused_by_name(boss: Caller, parameter: str, value: str) -> None:
    answer = boss.replicas[0].get("/v1/audit", params={parameter: value}, headers=boss.headers)
    body = refused(answer, 422, "invalid_request")
    assert body["errors"][0]["field"] == parameter


def test_entries_older_than_the_retention_are_deleted(
    boss: Caller, services: tuple[Service, Service]
) -> None:
    _, made = boss.create()
    with psycopg.connect(services[0].control_dsn, autocommit=True) as connection:
        aged = "update trail set at = at - interval '31 days' where subject = %s"
        assert connection.execute(aged, (made["id"],)).rowcount == 1
    until(lambda: audit_log(boss, subject=made["id"]) == [])
