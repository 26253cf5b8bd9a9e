"""Reset in place: the lease stays and its database is clean. Leftovers in the answer to a release."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import httpx
import psycopg
import pytest

Acquire = Callable[..., dict[str, Any]]
BOTH = pytest.mark.parametrize("isolation", ["database", "schema"])


def names(url: str) -> list[str]:
    with psycopg.connect(url, autocommit=True) as connection:
        return [row[0] for row in connection.execute("select name from item order by id").fetchall()]


def execute(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)


@BOTH
@pytest.mark.parametrize(
    "change",
    [
        "select 1",
        "insert into item (name) values ('fig')",
        "delete from item",
        "alter table item add column colour text",
    ],
    ids=["nothing", "rows added", "rows deleted", "a column more"],
)
def test_reset_lease_is_clean_and_has_new_login(
    http: httpx.Client, acquire: Acquire, isolation: str, change: str
) -> None:
    lease = acquire(isolation=isolation)
    clean = names(lease["url"])
    execute(lease["url"], change)
    answer = http.post(f"/v1/leases/{lease['id']}/reset")
    assert answer.status_code == 200, answer.text
    after = answer.json()
    assert (after["id"], after["state"], after["database_id"]) == (
        lease["id"],
        "active",
        lease["database_id"],
    )
    assert after["generation"] == lease["generation"] + 1
    assert after["expires_at"] is not None
    assert names(after["url"]) == clean
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(lease["url"])
    shown = http.get(f"/v1/leases/{lease['id']}").json()
    assert (shown["url"], shown["generation"]) == (after["url"], after["generation"])
    released = http.delete(f"/v1/leases/{lease['id']}")
    assert released.status_code == 200
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(after["url"])


@BOTH
def test_reset_terminates_connections(http: httpx.Client, acquire: Acquire, isolation: str) -> None:
    lease = acquire(isolation=isolation)
    with psycopg.connect(lease["url"]) as connection:
        connection.execute("lock table item; insert into item (name) values ('fig')")
        after = http.post(f"/v1/leases/{lease['id']}/reset").json()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")
    assert names(after["url"]) == ["apple", "pear"]


def test_each_of_several_simultaneous_resets_gets_a_result(http: httpx.Client, acquire: Acquire) -> None:
    lease = acquire()
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: http.post(f"/v1/leases/{lease['id']}/reset"), range(6)))
    codes = [one.status_code for one in answers]
    assert set(codes) <= {200, 409}
    assert 200 in codes
    for refused in (one for one in answers if one.status_code == 409):
        assert refused.json()["code"] == "conflict"
        assert "being reset" in refused.json()["detail"]
    shown = http.get(f"/v1/leases/{lease['id']}").json()
    assert shown["generation"] == lease["generation"] + codes.count(200)
    assert names(shown["url"]) == ["apple", "pear"]


def test_kept_lease_is_not_reset(http: httpx.Client, acquire: Acquire) -> None:
    lease = acquire()
    execute(lease["url"], "insert into item (name) values ('fig')")
    http.post(f"/v1/leases/{lease['id']}/keep").raise_for_status()
    refused = http.post(f"/v1/leases/{lease['id']}/reset")
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    assert "kept" in refused.json()["detail"]
    assert names(lease["url"]) == ["apple", "pear", "fig"]


def test_ended_or_unknown_lease_is_not_reset(http: httpx.Client, acquire: Acquire) -> None:
    lease = acquire()
    http.delete(f"/v1/leases/{lease['id']}").raise_for_status()
    over = http.post(f"/v1/leases/{lease['id']}/reset")
    assert (over.status_code, over.json()["code"]) == (410, "lease_ended")
    never = http.post(f"/v1/leases/{uuid.uuid4()}/reset")
    assert (never.status_code, never.json()["code"]) == (404, "lease_not_found")


@BOTH
def test_release_reports_open_leftovers(http: httpx.Client, acquire: Acquire, isolation: str) -> None:
    tidy = acquire(isolation=isolation)
    names(tidy["url"])
    nothing = {"connections": 0, "prepared_transactions": 0, "advisory_locks": 0, "objects": []}
    assert http.delete(f"/v1/leases/{tidy['id']}").json()["leftovers"] == nothing
    untidy = acquire(isolation=isolation)
    with closing(psycopg.connect(untidy["url"])) as one, closing(psycopg.connect(untidy["url"])) as two:
        one.execute("select pg_advisory_lock(1), pg_advisory_lock(2)")
        two.execute("insert into item (name) values ('fig')")
        execute(
            untidy["url"],
            f"begin; insert into item (name) values ('fig'); prepare transaction '{uuid.uuid4()}'",
        )
        left = http.delete(f"/v1/leases/{untidy['id']}").json()["leftovers"]
    assert left == {"connections": 2, "prepared_transactions": 1, "advisory_locks": 2, "objects": []}
    assert http.delete(f"/v1/leases/{untidy['id']}").json()["leftovers"] is None


@BOTH
def test_release_names_created_objects(http: httpx.Client, acquire: Acquire, isolation: str) -> None:
    lease = acquire(isolation=isolation)
    execute(
        lease["url"],
        "create table mine (id serial primary key); create index on mine (id); alter table item add colour text; "
        "create function one () returns int language sql as 'select 1'; create type mood as enum ('sad')",
    )
    left = http.delete(f"/v1/leases/{lease['id']}").json()["leftovers"]
    objects = [one.replace(f"{lease['schema']}.", "").replace("public.", "") for one in left["objects"]]
    assert {"table mine", "sequence mine_id_seq", "table item", "function one()", "type mood"} <= set(objects)
    assert objects[:3] == ["sequence mine_id_seq", "table item", "table mine"]
