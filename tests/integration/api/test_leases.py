from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import httpx
import psycopg
import pytest

from tests import plain_http
from tests.limits import LIMIT_SECONDS
from tests.services import Service

Acquire = Callable[..., dict[str, Any]]
BOTH = pytest.mark.parametrize("isolation", ["database", "schema"])


def one(url: str, query: str) -> object:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(query).fetchone()
        return row[0] if row else None


def until(condition: Callable[[], bool], seconds: float = LIMIT_SECONDS) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition was not met in time"
        time.sleep(0.02)


def taken_whole(http: httpx.Client, name: str, most: int = 1) -> tuple[str, list[str]]:
    """Lease all databases of a new template's pool with at most ``most``. Return the pool and the leases."""
    http.post("/v1/templates", json={"name": name, "sql": ["select 1"]}).raise_for_status()
    first = http.post("/v1/leases", json={"template": name}).json()
    pool, held = first["pool_id"], [first["id"]]
    http.patch(f"/v1/pools/{pool}", json={"min_ready": 0, "max_size": most}).raise_for_status()

    def all_leased() -> bool:
        answer = http.post("/v1/leases", json={"template": name, "wait_seconds": 0})
        if answer.status_code == 201:
            held.append(answer.json()["id"])
        return set(http.get(f"/v1/pools/{pool}").json()["databases"]) == {"leased"}

    until(all_leased)
    return pool, held


@BOTH
def test_lease_is_a_clean_database_owned_by_its_holder(acquire: Acquire, isolation: str) -> None:
    lease = acquire(isolation=isolation, holder={"test": "me"}, labels={"run": "1"})
    assert lease["state"] == "active"
    assert (lease["schema"] is not None) == (isolation == "schema")
    with psycopg.connect(lease["url"], autocommit=True) as connection:
        assert connection.execute("select name from item order by id").fetchall() == [("apple",), ("pear",)]
        connection.execute("insert into item (name, price) values ('plum', 3)")
        connection.execute("alter table item add column colour text")
        connection.execute("create table mine (id int)")
        connection.execute("drop table item")
    assert lease["holder"] == {"test": "me"}
    assert lease["labels"] == {"run": "1"}


@BOTH
def test_changes_of_a_holder_are_gone_for_the_next(
    http: httpx.Client, acquire: Acquire, name: str, isolation: str
) -> None:
    http.post(
        "/v1/templates",
        json={"name": name, "sql": ["create table t (id serial); insert into t default values"]},
    )
    lease = acquire(template=name, isolation=isolation)
    http.patch(f"/v1/pools/{lease['pool_id']}", json={"min_ready": 0, "max_size": 1})
    seen = {lease["database_id"]}
    for _ in range(4):
        one(lease["url"], "insert into t default values returning id")
        http.delete(f"/v1/leases/{lease['id']}")
        lease = acquire(template=name, isolation=isolation)
        assert one(lease["url"], "select array_agg(id)::text from t") == "{1}"
        assert one(lease["url"], "insert into t default values returning id") == 2
        seen.add(lease["database_id"])
    assert len(seen) < 5  # a database was used again


@BOTH
def test_old_url_is_refused_after_release(http: httpx.Client, acquire: Acquire, isolation: str) -> None:
    lease = acquire(isolation=isolation)
    with psycopg.connect(lease["url"]) as open_connection:
        http.delete(f"/v1/leases/{lease['id']}")

        def dead() -> bool:
            try:
                open_connection.execute("select 1")
                open_connection.rollback()
            except psycopg.OperationalError:
                return True
            return False

        until(dead)

    def refused() -> bool:
        try:
            psycopg.connect(lease["url"]).close()
        except psycopg.OperationalError:
            return True
        return False

    until(refused)


def test_heartbeat_moves_end_within_max_ttl(http: httpx.Client, acquire: Acquire) -> None:
    lease = acquire(ttl_seconds=60)
    renewed = http.post(f"/v1/leases/{lease['id']}/renew", json={"ttl_seconds": 120}).json()
    assert renewed["ttl_seconds"] == pytest.approx(120, abs=1)
    assert datetime.fromisoformat(renewed["expires_at"]) > datetime.fromisoformat(lease["expires_at"])
    again = http.post(f"/v1/leases/{lease['id']}/renew").json()
    assert again["ttl_seconds"] == pytest.approx(120, abs=1)  # from now on the lease's own TTL
    shorter = http.post(f"/v1/leases/{lease['id']}/renew", json={"ttl_seconds": 5}).json()
    assert shorter["expires_at"] == again["expires_at"]  # an end never moves closer
    most = http.post(f"/v1/leases/{lease['id']}/renew", json={"ttl_seconds": 86400}).json()
    assert most["expires_at"] == most["max_expires_at"]


def test_lease_without_heartbeat_expires_and_its_database_is_reset(
    http: httpx.Client, acquire: Acquire
) -> None:
    lease = acquire(ttl_seconds=1)

    def over() -> bool:
        return bool(http.get(f"/v1/leases/{lease['id']}").json()["state"] == "expired")

    until(over)
    answer = http.post(f"/v1/leases/{lease['id']}/renew")
    assert (answer.status_code, answer.json()["code"]) == (410, "lease_ended")
    assert "expired" in answer.json()["detail"]

    def refused() -> bool:
        try:
            psycopg.connect(lease["url"]).close()
        except psycopg.OperationalError:
            return True
        return False

    until(refused)


def test_second_release_is_no_error(http: httpx.Client, acquire: Acquire) -> None:
    lease = acquire()
    first = http.delete(f"/v1/leases/{lease['id']}")
    second = http.delete(f"/v1/leases/{lease['id']}")
    assert (first.status_code, second.status_code) == (200, 200)
    assert second.json()["state"] == "released"
    assert second.json()["ended_at"] == first.json()["ended_at"]


def test_lists_have_no_passwords(http: httpx.Client, acquire: Acquire) -> None:
    lease = acquire()
    shown = http.get(f"/v1/leases/{lease['id']}").json()
    assert shown["url"] == lease["url"]
    listed = http.get("/v1/leases", params={"limit": 1000})
    assert lease["id"] in listed.text
    assert lease["password"] not in listed.text
    assert {item["password"] for item in listed.json()["items"]} == {None}
    assert lease["password"] not in http.delete(f"/v1/leases/{lease['id']}").text
    assert http.get(f"/v1/leases/{lease['id']}").json()["password"] is None


def test_lists_are_filtered_by_holder_label_state_and_template(
    http: httpx.Client, acquire: Acquire, shop: str
) -> None:
    run = uuid.uuid4().hex
    mine = [
        acquire(labels={"run": run, "n": str(n)}, holder={"worker": f"gw{n % 2}"})["id"] for n in range(3)
    ]
    acquire(labels={"run": "another"})

    def listed(**query: str) -> list[str]:
        return [item["id"] for item in http.get("/v1/leases", params=query).json()["items"]]

    assert listed(**{"label.run": run}) == mine
    assert listed(**{"label.run": run, "holder.worker": "gw0"}) == [mine[0], mine[2]]
    assert listed(**{"label.run": run, "template": shop}) == mine
    assert listed(**{"label.run": run, "template": "shop"}) == mine
    assert listed(**{"label.run": run, "template": "other"}) == []
    assert listed(**{"label.run": run, "isolation": "schema"}) == []
    http.delete(f"/v1/leases/{mine[0]}")
    assert listed(**{"label.run": run}) == mine[1:]
    assert listed(**{"label.run": run, "state": "released"}) == mine[:1]


def test_lists_are_paginated(http: httpx.Client, acquire: Acquire) -> None:
    run = uuid.uuid4().hex
    mine = [acquire(labels={"run": run})["id"] for _ in range(5)]
    found: list[str] = []
    query = {"label.run": run, "limit": "2"}
    for _ in range(10):
        page = http.get("/v1/leases", params=query).json()
        found += [item["id"] for item in page["items"]]
        if page["next"] is None:
            break
        query["cursor"] = page["next"]
    assert found == mine


def test_same_idempotency_key_gets_same_lease(http: httpx.Client, shop: str) -> None:
    key = {"idempotency-key": uuid.uuid4().hex}
    body = {"template": shop, "labels": {"a": "b"}}
    first = http.post("/v1/leases", json=body, headers=key)
    second = http.post("/v1/leases", json={**body, "wait_seconds": 1}, headers=key)
    assert first.status_code == second.status_code == 201
    assert first.json()["url"] == second.json()["url"]
    assert first.json()["id"] == second.json()["id"]
    http.delete(f"/v1/leases/{first.json()['id']}")


def test_same_idempotency_key_in_simultaneous_calls_gets_one_lease(service: Service, shop: str) -> None:
    key = {"idempotency-key": uuid.uuid4().hex}

    def call(_: int) -> str:
        answer = plain_http.post(
            f"{service.url}/v1/leases", json={"template": shop}, headers=key, timeout=LIMIT_SECONDS
        )
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    with ThreadPoolExecutor(8) as crowd:
        got = set(crowd.map(call, range(16)))
    assert len(got) == 1
    plain_http.delete(f"{service.url}/v1/leases/{got.pop()}")


def test_batch_is_granted_as_a_whole(http: httpx.Client, shop: str) -> None:
    key = {"idempotency-key": uuid.uuid4().hex}
    body = {"leases": [{"template": shop, "labels": {"n": str(n // 2)}} for n in range(4)]}
    answer = http.post("/v1/leases/batch", json=body, headers=key)
    assert answer.status_code == 201, answer.text
    leases = answer.json()["items"]
    assert len({lease["database"] for lease in leases}) == 4
    assert [lease["labels"]["n"] for lease in leases] == ["0", "0", "1", "1"]
    for lease in leases:
        assert one(lease["url"], "select count(*) from item") == 2
    again = http.post("/v1/leases/batch", json=body, headers=key).json()["items"]
    assert [lease["id"] for lease in again] == [lease["id"] for lease in leases]
    for lease in leases:
        http.delete(f"/v1/leases/{lease['id']}")


def test_batch_of_more_than_the_free_databases_gets_nothing(http: httpx.Client, name: str) -> None:
    pool, held = taken_whole(http, name)
    http.patch(f"/v1/pools/{pool}", json={"max_size": len(held) + 1})
    bodies = [{"template": name, "wait_seconds": 2, "labels": {"n": str(n)}} for n in range(len(held) + 1)]
    answer = http.post("/v1/leases/batch", json={"leases": bodies})
    assert (answer.status_code, answer.json()["code"]) == (503, "pool_exhausted"), answer.text
    assert {item["id"] for item in http.get("/v1/leases", params={"template": name}).json()["items"]} == set(
        held
    )
    for lease in held:
        http.delete(f"/v1/leases/{lease}")


def test_batch_beyond_max_size_of_pool_is_over_quota(http: httpx.Client, acquire: Acquire, name: str) -> None:
    http.post("/v1/templates", json={"name": name, "sql": ["select 1"]})
    lease = acquire(template=name)
    http.patch(f"/v1/pools/{lease['pool_id']}", json={"min_ready": 0, "max_size": 2})
    bodies = [{"template": name, "wait_seconds": 5, "labels": {"n": str(n)}} for n in range(3)]
    answer = http.post("/v1/leases/batch", json={"leases": bodies})
    assert (answer.status_code, answer.json()["code"]) == (429, "quota_exceeded"), answer.text
    assert answer.headers["retry-after"] == "1"
    assert "ask for fewer" in answer.json()["detail"]
    live = http.get("/v1/leases", params={"template": name}).json()["items"]
    assert [item["id"] for item in live] == [lease["id"]]


def test_queue_is_first_come_first_served(http: httpx.Client, service: Service, name: str) -> None:
    pool, held = taken_whole(http, name)
    served: list[tuple[str, int]] = []

    def waiting() -> int:
        return int(http.get(f"/v1/pools/{pool}").json()["waiting"])

    def stand(number: int) -> None:
        body = {"template": name, "wait_seconds": LIMIT_SECONDS, "holder": {"number": str(number)}}
        got = plain_http.post(f"{service.url}/v1/leases", json=body, timeout=2 * LIMIT_SECONDS)
        assert got.status_code == 201, got.text
        lease = got.json()
        served.append((lease["granted_at"], number))
        plain_http.delete(f"{service.url}/v1/leases/{lease['id']}")

    with ThreadPoolExecutor(8) as crowd:
        stands = []
        for number in range(8):
            stands.append(crowd.submit(stand, number))
            until(partial(lambda number: waiting() == number + 1, number))
        for one_held in held:
            http.delete(f"/v1/leases/{one_held}")
        for done in stands:
            done.result()
    assert [number for _, number in sorted(served)] == list(range(8))
    until(lambda: sum(http.get(f"/v1/pools/{pool}").json()["databases"].values()) <= len(held))


def test_retry_with_idempotency_key_keeps_place_in_queue(
    http: httpx.Client, service: Service, name: str
) -> None:
    pool, held = taken_whole(http, name)
    body, key = {"template": name, "wait_seconds": 0.3}, {"idempotency-key": uuid.uuid4().hex}
    assert http.post("/v1/leases", json=body, headers=key).json()["queue_position"] == 1
    with ThreadPoolExecutor(1) as crowd:
        other = crowd.submit(
            httpx.post,
            f"{service.url}/v1/leases",
            json={"template": name, "wait_seconds": LIMIT_SECONDS},
            timeout=2 * LIMIT_SECONDS,
        )
        until(lambda: http.get(f"/v1/pools/{pool}").json()["waiting"] == 1)
        again = http.post("/v1/leases", json=body, headers=key).json()
        assert (again["queue_position"], again["queue_length"]) == (1, 2)
        for lease in held:
            http.delete(f"/v1/leases/{lease}")
        http.delete(f"/v1/leases/{other.result().json()['id']}")


def test_caller_that_hangs_up_leaves_the_queue(http: httpx.Client, service: Service, name: str) -> None:
    pool, held = taken_whole(http, name)
    with pytest.raises(httpx.ReadTimeout):
        plain_http.post(
            f"{service.url}/v1/leases",
            json={"template": name, "wait_seconds": 200},
            timeout=httpx.Timeout(LIMIT_SECONDS, read=0.5),
        )
    until(lambda: http.get(f"/v1/pools/{pool}").json()["waiting"] == 0)
    for lease in held:
        http.delete(f"/v1/leases/{lease}")


def test_contenders_never_share_a_database(
    service: Service, acquire: Acquire, http: httpx.Client, name: str
) -> None:
    http.post("/v1/templates", json={"name": name, "sql": ["create table mark (who text)"]})
    pool = acquire(template=name)["pool_id"]
    http.patch(f"/v1/pools/{pool}", json={"min_ready": 2, "max_size": 4})

    def contend(number: int) -> None:
        with httpx.Client(
            verify=plain_http.NO_CERTIFICATES, base_url=service.url, timeout=2 * LIMIT_SECONDS
        ) as client:
            for turn in range(5):
                got = client.post("/v1/leases", json={"template": name, "wait_seconds": LIMIT_SECONDS})
                assert got.status_code == 201, got.text
                lease = got.json()
                with psycopg.connect(lease["url"], autocommit=True) as connection:
                    assert connection.execute("select * from mark").fetchall() == []
                    connection.execute("insert into mark values (%s)", (f"{number}-{turn}",))
                    assert connection.execute("select * from mark").fetchall() == [(f"{number}-{turn}",)]
                client.delete(f"/v1/leases/{lease['id']}")

    with ThreadPoolExecutor(10) as crowd:
        for done in [crowd.submit(contend, number) for number in range(10)]:
            done.result()
    assert sum(http.get(f"/v1/pools/{pool}").json()["databases"].values()) <= 4


def test_kept_lease_stays_for_inspection(http: httpx.Client, acquire: Acquire) -> None:
    lease = acquire(ttl_seconds=60)
    before = datetime.now(UTC)
    kept = http.post(f"/v1/leases/{lease['id']}/keep", json={"ttl_seconds": 600, "reason": "test_x failed"})
    assert kept.status_code == 200, kept.text
    assert kept.json()["state"] == "kept"
    expires, moment = datetime.fromisoformat(kept.json()["expires_at"]), timedelta(seconds=1)
    assert before - moment <= expires - timedelta(seconds=600) <= datetime.now(UTC) + moment
    longer = http.post(f"/v1/leases/{lease['id']}/keep", json={"ttl_seconds": 1200})
    assert longer.status_code == 200, longer.text
    assert longer.json()["expires_at"] > kept.json()["expires_at"]
    assert one(lease["url"], "select count(*) from item") == 2
    pool = http.get(f"/v1/pools/{lease['pool_id']}").json()
    assert pool["databases"]["kept"] == 1
    assert http.delete(f"/v1/leases/{lease['id']}").json()["state"] == "released"
