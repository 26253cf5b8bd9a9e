"""Quotas hold under contention on several replicas. Errors name the quota, its limit and its use."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from tests.integration.auth.conftest import Caller, refused, unique, until
from tests.limits import LIMIT_SECONDS
from tests.services import Service, make_due

pytestmark = pytest.mark.xdist_group("access")  # two services for the tests of this package


def test_concurrent_acquires_on_two_replicas_never_exceed_the_lease_quota(boss: Caller) -> None:
    caller = boss.using(boss.create(max_leases=3)[0])
    pool = caller.acquire()["pool_id"]
    boss.ask("PATCH", f"/v1/pools/{pool}", {"min_ready": 12})
    until(lambda: boss.get(f"/v1/pools/{pool}")["databases"].get("ready", 0) >= 12)
    with ThreadPoolExecutor(12) as crowd:
        answers = list(
            crowd.map(
                lambda number: caller.ask(
                    "POST", "/v1/leases", {"template": "shop", "wait_seconds": 0}, replica=number % 2
                ),
                range(24),
            )
        )
    boss.ask("PATCH", f"/v1/pools/{pool}", {"min_ready": 1})
    granted = [one.json() for one in answers if one.status_code == 201]
    for one in answers:
        if one.status_code != 201:
            body = refused(one, 429, "quota_exceeded", quota="max_leases", limit=3, use=3)
            assert "max_leases" in body["detail"]
            assert one.headers["retry-after"] == "1"
    assert len(granted) == 2  # and the lease before
    caller.release(granted[0])
    caller.release(caller.acquire())


def test_grant_waits_for_the_previous_grant_and_counts_it(
    boss: Caller, services: tuple[Service, Service]
) -> None:
    secret, made = boss.create(max_leases=1)
    caller = boss.using(secret)
    caller.release(caller.acquire())
    copied = "to_jsonb(l) || jsonb_build_object('id', gen_random_uuid(), 'state', 'active')"
    with ThreadPoolExecutor(1) as crowd, psycopg.connect(services[0].control_dsn) as other:
        assert other.execute("select token_hold(%s)", (made["id"],)).fetchone() == (["0", "1"],)
        other.execute(
            f"insert into leases select (jsonb_populate_record(null::leases, {copied})).* from leases l "
            "where principal = %s",
            (made["name"],),
        )
        answer = crowd.submit(caller.ask, "POST", "/v1/leases", {"template": "shop"}, replica=1)
        with psycopg.connect(services[0].control_dsn, autocommit=True) as watcher:
            waits = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
            until(lambda: answer.done() or watcher.execute(waits).fetchone() == (1,))
        assert not answer.done()
        other.commit()
        refused(answer.result(), 429, "quota_exceeded", quota="max_leases", limit=1, use=1)
        other.execute("set session_replication_role = replica")
        other.execute("delete from leases where principal = %s and state = 'active'", (made["name"],))


def test_idempotent_retry_returns_the_same_lease_at_a_full_quota(boss: Caller) -> None:
    caller = boss.using(boss.create(max_leases=1)[0])
    first = caller.ask("POST", "/v1/leases", {"template": "shop"}, idempotency_key="k").json()
    again = caller.ask("POST", "/v1/leases", {"template": "shop"}, replica=1, idempotency_key="k")
    assert (again.status_code, again.json()["id"]) == (201, first["id"])
    caller.release(first)


def test_batch_over_the_quota_is_refused_as_a_whole(boss: Caller) -> None:
    caller = boss.using(boss.create(max_leases=2)[0])
    lease = caller.acquire()
    shop = {"template": "shop", "wait_seconds": LIMIT_SECONDS}
    answer = caller.ask("POST", "/v1/leases/batch", {"leases": [shop, {**shop, "labels": {"a": "b"}}]})
    refused(answer, 429, "quota_exceeded", quota="max_leases", limit=2)
    assert len(caller.get("/v1/leases", limit=1000)["items"]) >= 1
    held = [
        one for one in boss.get("/v1/leases", limit=1000)["items"] if one["principal"] == lease["principal"]
    ]
    assert [one["id"] for one in held] == [lease["id"]]
    never = caller.ask("POST", "/v1/leases/batch", {"leases": [shop] * 3})
    refused(never, 429, "quota_exceeded", quota="max_leases", limit=2, use=1)
    assert "retry-after" not in never.headers  # waiting would not help
    caller.release(lease)


def test_acquire_over_the_quota_is_refused_before_the_queue(boss: Caller) -> None:
    name = unique("narrow")
    made = boss.ask("POST", "/v1/templates", {"name": name, "sql": ["select 1"]}).json()
    caller = boss.using(boss.create(max_leases=1)[0])
    lease = caller.acquire(template=name)
    boss.ask("PATCH", f"/v1/pools/{lease['pool_id']}", {"min_ready": 0, "max_size": 1})
    until(lambda: sum(boss.get(f"/v1/pools/{lease['pool_id']}")["databases"].values()) == 1)
    answer = caller.ask("POST", "/v1/leases", {"template": name, "wait_seconds": 300})
    refused(answer, 429, "quota_exceeded", quota="max_leases", limit=1, use=1)
    caller.release(lease)
    boss.ask("DELETE", f"/v1/templates/{made['id']}?force=true")


def test_quota_can_be_raised_and_removed_and_shows_its_use(boss: Caller) -> None:
    secret, made = boss.create(max_leases=0)
    caller, where = boss.using(secret), f"/v1/tokens/{made['id']}"
    refused(caller.ask("POST", "/v1/leases", {"template": "shop"}), 429, "quota_exceeded", limit=0, use=0)
    assert boss.ask("PATCH", where, {"max_leases": 1}).json()["max_leases"] == 1
    first = caller.acquire(wait_seconds=30)
    refused(caller.ask("POST", "/v1/leases", {"template": "shop"}), 429, "quota_exceeded", limit=1, use=1)
    assert boss.get(where)["use"]["leases"] == 1
    assert boss.ask("PATCH", where, {"max_leases": None, "max_ttl_seconds": 60}).json()["max_leases"] is None
    second = caller.acquire(wait_seconds=30, ttl_seconds=60)
    for lease in (first, second):
        caller.release(lease)


def test_kept_and_expiring_leases_count_until_their_end(
    boss: Caller, services: tuple[Service, Service]
) -> None:
    caller = boss.using(boss.create(max_leases=1)[0])
    lease = caller.acquire(ttl_seconds=60)
    assert caller.ask("POST", f"/v1/leases/{lease['id']}/keep", {"ttl_seconds": 600}).status_code == 200
    refused(caller.ask("POST", "/v1/leases", {"template": "shop"}), 429, "quota_exceeded")
    make_due(services[0], lease["id"])
    until(lambda: caller.ask("POST", "/v1/leases", {"template": "shop"}).status_code == 201)


def test_ttl_over_the_quota_is_refused_and_the_quota_caps_the_life(boss: Caller) -> None:
    caller = boss.using(boss.create(max_ttl_seconds=20)[0])
    before = datetime.now(UTC)
    lease = caller.acquire()
    assert lease["ttl_seconds"] == 20  # the default, capped by the quota
    after = datetime.now(UTC)
    assert lease["max_expires_at"] <= boss.get(f"/v1/leases/{lease['id']}")["max_expires_at"]
    for path, body in (
        ("/v1/leases", {"template": "shop", "ttl_seconds": 21}),
        (f"/v1/leases/{lease['id']}/renew", {"ttl_seconds": 21}),
        (f"/v1/leases/{lease['id']}/keep", {"ttl_seconds": 21}),
    ):
        answer = caller.ask("POST", path, body)
        refused(answer, 429, "quota_exceeded", quota="max_ttl_seconds", limit=20, use=21)
        assert "retry-after" not in answer.headers  # waiting does not help
    renewed = caller.ask("POST", f"/v1/leases/{lease['id']}/renew", {}).json()
    assert renewed["ttl_seconds"] <= 20
    moment = timedelta(seconds=1)
    for one in (lease, renewed):  # one is by the clock of Redis, one by PostgreSQL's
        granted = datetime.fromisoformat(one["max_expires_at"]) - timedelta(seconds=20)
        assert before - moment <= granted <= after + moment
    caller.release(lease)


def test_databases_of_a_tokens_templates_never_exceed_its_quota(
    boss: Caller, services: tuple[Service, Service]
) -> None:
    builder = boss.using(boss.create(max_databases=4, scopes=["read", "lease", "build"])[0])
    name = unique("mine")
    made = builder.ask("POST", "/v1/templates", {"name": name, "sql": ["select 1"]})
    assert made.status_code == 201, made.text
    count = "select count(*) from databases d join pools p on p.id = d.pool_id where p.template_id = %s"
    most = 0
    with ThreadPoolExecutor(4) as crowd, psycopg.connect(services[0].control_dsn, autocommit=True) as watcher:
        # On both replicas, the pool needs these four databases and a ready one.
        body = {"template": name, "wait_seconds": LIMIT_SECONDS}
        asked = [
            crowd.submit(builder.ask, "POST", "/v1/leases", body, replica=number % 2) for number in range(4)
        ]
        while not all(one.done() for one in asked):
            row = watcher.execute(count, (made.json()["id"],)).fetchone()
            assert row is not None
            most = max(most, row[0])
    assert most == 4
    held = [one.result().json() for one in asked if one.result().status_code == 201]
    assert len(held) == 4
    more = builder.ask("POST", "/v1/leases", {"template": name, "wait_seconds": 0.5})
    refused(more, 429, "quota_exceeded", quota="max_databases", limit=4, use=4)
    another = builder.ask("POST", "/v1/templates", {"name": unique("more"), "sql": ["select 1"]})
    refused(another, 429, "quota_exceeded", quota="max_databases", limit=4, use=4)
    assert builder.ask("POST", "/v1/templates", {"name": name, "sql": ["select 1"]}).status_code == 200
    exhausted = boss.ask("POST", "/v1/leases", {"template": name, "wait_seconds": 0})
    body_of = refused(exhausted, 503, "pool_exhausted")  # it is not the other token's quota
    assert "the quota max_databases of the token" in body_of["detail"]
    for lease in held:
        builder.release(lease)
    boss.ask("DELETE", f"/v1/templates/{name}?force=true")


def test_template_is_refused_when_the_disk_quota_is_used_up(boss: Caller) -> None:
    secret, made = boss.create(max_disk_bytes=8 * 2**20, scopes=["read", "lease", "build"])
    builder, first = boss.using(secret), unique("big")
    sql = ["create table big as select repeat(md5(n::text), 20) as body from generate_series(1, 5000) n"]
    assert builder.ask("POST", "/v1/templates", {"name": first, "sql": sql}).status_code == 201
    use = boss.get(f"/v1/tokens/{made['id']}")["use"]["disk_bytes"]
    assert use > 8 * 2**20
    body = refused(
        builder.ask("POST", "/v1/templates", {"name": unique("more"), "sql": sql}),
        *(429, "quota_exceeded"),
        quota="max_disk_bytes",
        limit=8 * 2**20,
    )
    assert body["use"] >= use
    refused(
        builder.ask("POST", "/v1/leases", {"template": first, "wait_seconds": 0.5}),
        *(429, "quota_exceeded"),
        quota="max_disk_bytes",
    )
    boss.ask("PATCH", f"/v1/tokens/{made['id']}", {"max_disk_bytes": 64 * 2**20})
    lease = builder.acquire(template=first, wait_seconds=30)
    with psycopg.connect(lease["url"], autocommit=True) as connection:
        connection.execute("create table more as select repeat('x', 1000) from generate_series(1, 40000)")
    until(
        lambda: boss.get(f"/v1/tokens/{made['id']}")["use"]["disk_bytes"] > 64 * 2**20
    )  # the next measurement
    refused(
        builder.ask("POST", "/v1/templates", {"name": unique("more"), "sql": sql}),
        *(429, "quota_exceeded"),
        quota="max_disk_bytes",
    )
    builder.release(lease)
    boss.ask("DELETE", f"/v1/templates/{first}?force=true")
