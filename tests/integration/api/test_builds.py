"""The build protocol: one of any number of callers builds, and is replaced after its deadline."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest

from tests import plain_http
from tests.limits import LIMIT_SECONDS
from tests.services import Service


def fill(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("create table built (id serial primary key, who text)")
        connection.execute("insert into built (who) values ('the builder')")


def test_first_caller_builds_and_others_wait(http: httpx.Client, name: str) -> None:
    first = http.post("/v1/templates", json={"name": name, "fingerprint": "abc"})
    assert first.status_code == 201
    build = first.json()["build"]
    second = http.post("/v1/templates", json={"name": name, "fingerprint": "abc"})
    assert (second.status_code, second.json()["state"], second.json()["build"]) == (200, "building", None)
    fill(build["url"])
    done = http.post(f"/v1/templates/{first.json()['id']}/ready", json={"token": build["token"]})
    assert done.json()["state"] == "ready"
    assert http.get(f"/v1/templates/{name}@abc", params={"wait_seconds": 5}).json()["state"] == "ready"
    again = http.post(f"/v1/templates/{first.json()['id']}/ready", json={"token": build["token"]})
    assert again.status_code == 200  # repeated, as after a lost answer
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(build["url"])
    for isolation in ("database", "schema"):
        lease = http.post("/v1/leases", json={"template": f"{name}@abc", "isolation": isolation}).json()
        with psycopg.connect(lease["url"], autocommit=True) as connection:
            assert connection.execute("select * from built").fetchall() == [(1, "the builder")]
            assert connection.execute("insert into built (who) values ('me') returning id").fetchone() == (2,)
            connection.execute("alter table built rename to mine")
        http.delete(f"/v1/leases/{lease['id']}")


async def test_one_of_many_contenders_builds_and_all_lease(service: Service, name: str) -> None:
    built = 0

    async def contend(number: int) -> None:
        nonlocal built
        async with httpx.AsyncClient(
            verify=plain_http.NO_CERTIFICATES, base_url=service.url, timeout=2 * LIMIT_SECONDS
        ) as client:
            answer = (await client.post("/v1/templates", json={"name": name, "fingerprint": "1"})).json()
            if answer["build"]:
                built += 1
                await asyncio.to_thread(fill, answer["build"]["url"])
                token = {"token": answer["build"]["token"]}
                assert (
                    await client.post(f"/v1/templates/{answer['id']}/ready", json=token)
                ).status_code == 200
            shown = await client.get(f"/v1/templates/{answer['id']}", params={"wait_seconds": LIMIT_SECONDS})
            assert shown.json()["state"] == "ready"
            lease: dict[str, Any] = (
                await client.post(
                    "/v1/leases",
                    json={
                        "template": f"{name}@1",
                        "wait_seconds": LIMIT_SECONDS,
                        "holder": {"n": str(number)},
                    },
                )
            ).json()
            assert lease["state"] == "active", lease
            await client.delete(f"/v1/leases/{lease['id']}")

    await asyncio.gather(*(contend(number) for number in range(12)))
    assert built == 1


def test_builder_after_its_deadline_is_replaced_and_its_result_refused(
    http: httpx.Client, service: Service, name: str
) -> None:
    body = {"name": name, "fingerprint": "1", "build_seconds": 600}
    dead = http.post("/v1/templates", json=body).json()
    assert http.post("/v1/templates", json=body).json()["build"] is None
    with psycopg.connect(service.control_dsn, autocommit=True) as connection:  # its deadline has passed
        connection.execute("update templates set build_deadline_at = now() where id = %s", (dead["id"],))
    http.get(f"/v1/templates/{name}", params={"wait_seconds": 600})  # returns, because no builder is alive
    heir = http.post("/v1/templates", json=body).json()
    assert heir["id"] == dead["id"]
    assert heir["build"]["url"] != dead["build"]["url"]
    late = http.post(f"/v1/templates/{dead['id']}/ready", json={"token": dead["build"]["token"]})
    assert (late.status_code, late.json()["code"]) == (409, "build_lost")
    fill(heir["build"]["url"])
    done = http.post(f"/v1/templates/{heir['id']}/ready", json={"token": heir["build"]["token"]})
    assert done.json()["state"] == "ready"


def test_builder_that_renews_is_not_replaced(http: httpx.Client, name: str) -> None:
    body = {"name": name, "fingerprint": "1", "build_seconds": 60}
    mine = http.post("/v1/templates", json=body).json()
    token = {"token": mine["build"]["token"]}
    deadline = datetime.fromisoformat(mine["build"]["deadline_at"])
    shown = http.get(f"/v1/templates/{mine['id']}").json()["build_deadline_at"]
    assert datetime.fromisoformat(shown) == deadline
    for _ in range(5):
        renewed = http.post(f"/v1/templates/{mine['id']}/renew", json=token).json()["deadline_at"]
        assert datetime.fromisoformat(renewed) > deadline
        deadline = datetime.fromisoformat(renewed)
        shown = http.get(f"/v1/templates/{mine['id']}").json()["build_deadline_at"]
        assert datetime.fromisoformat(shown) == deadline
    assert http.post("/v1/templates", json=body).json()["build"] is None


def test_failed_build_goes_to_next_caller(http: httpx.Client, name: str) -> None:
    body = {"name": name, "fingerprint": "1"}
    mine = http.post("/v1/templates", json=body).json()
    failed = http.post(
        f"/v1/templates/{mine['id']}/failed",
        json={"token": mine["build"]["token"], "message": "migrate exited with 1"},
    )
    assert failed.json()["state"] == "failed"
    assert failed.json()["error"]["message"] == "migrate exited with 1"
    refused = http.post("/v1/leases", json={"template": name})
    assert (refused.status_code, refused.json()["code"]) == (422, "template_failed")
    assert "migrate exited with 1" in refused.json()["detail"]
    assert http.post("/v1/templates", json=body).json()["build"]


def test_build_log_can_be_read_after_success_and_failure(http: httpx.Client, name: str) -> None:
    body = {"name": name, "fingerprint": "1"}
    first = http.post("/v1/templates", json=body).json()
    log = f"/v1/templates/{first['id']}/log"
    assert http.get(log).json()["log"] is None  # still building
    report = {"token": first["build"]["token"], "message": "exit 1", "log": "line one\nline two\n"}
    http.post(f"/v1/templates/{first['id']}/failed", json=report)
    read = http.get(log).json()
    assert (read["state"], read["log"], read["error"]["message"]) == (
        "failed",
        "line one\nline two\n",
        "exit 1",
    )
    second = http.post("/v1/templates", json=body).json()
    assert http.get(log).json()["log"] is None  # the next attempt has not ended
    fill(second["build"]["url"])
    report = {"token": second["build"]["token"], "log": "CREATE TABLE\n"}
    ready = http.post(f"/v1/templates/{second['id']}/ready", json=report).json()
    assert (ready["state"], ready["warnings"]) == ("ready", [])
    assert http.get(log).json()["log"] == "CREATE TABLE\n"
    assert http.get(f"/v1/templates/{uuid4()}/log").json()["code"] == "template_not_found"


def test_build_that_created_nothing_or_printed_errors_has_warnings(http: httpx.Client, name: str) -> None:
    error = 'psql:schema.sql:2: ERROR:  relation "person" does not exist'

    def build(fingerprint: str, *, filled: bool, log: str) -> dict[str, Any]:
        answer = http.post("/v1/templates", json={"name": name, "fingerprint": fingerprint}).json()
        if filled:
            fill(answer["build"]["url"])
        report = {"token": answer["build"]["token"], "log": log}
        ready: dict[str, Any] = http.post(f"/v1/templates/{answer['id']}/ready", json=report).json()
        assert ready["state"] == "ready"
        return ready

    def findings() -> list[str]:
        found = http.get("/v1/overview").json()["findings"]
        return [one["message"] for one in found if one["label"].startswith(f"{name}@")]

    assert build("good", filled=True, log="CREATE TABLE\n")["warnings"] == []
    assert findings() == []
    [partly] = build("partly", filled=True, log=f"CREATE TABLE\n{error}\nINSERT 0 1\n{error}\n")["warnings"]
    assert f"{error} (and 1 more)" in partly
    assert "ON_ERROR_STOP=1" in partly
    assert findings() == [partly]
    [nothing] = build("nothing", filled=False, log="Done.\n")["warnings"]
    assert "created no table" in nothing
    assert findings() == [nothing]  # an older template of this name is not used any more
    assert len(build("both", filled=False, log=error)["warnings"]) == 2
    assert http.get(f"/v1/templates/{name}@partly").json()["warnings"] == [partly]
    assert build("fixed", filled=True, log="")["warnings"] == []
    assert findings() == []


@pytest.mark.parametrize(
    ("sql", "empty"),
    [
        ("select 1", True),
        ("-- empty on purpose\n", False),
        ("create function one() returns int language sql as 'select 1'", False),
        ("create type mood as enum ('ok')", False),
        ("create schema other", False),
        ("select lo_create(0)", False),
    ],
)
def test_sql_without_objects_has_a_warning(http: httpx.Client, name: str, sql: str, *, empty: bool) -> None:
    vector = {"name": "vector", "schema": "extensions"}  # what the service installs does not count
    body = {"name": name, "sql": [sql], "extensions": [vector]}
    assert bool(http.post("/v1/templates", json=body).json()["warnings"]) is empty


def test_log_of_sql_has_the_messages_of_postgresql(http: httpx.Client, name: str) -> None:
    script = "create table one ();\ncreate table if not exists one ();\n"
    first = http.post("/v1/templates", json={"name": name, "fingerprint": "1", "sql": [script]}).json()
    assert first["warnings"] == []
    log = http.get(f"/v1/templates/{first['id']}/log").json()["log"]
    assert log == 'sql[0], line 2: NOTICE:  relation "one" already exists, skipping'
    body = {"name": name, "fingerprint": "2", "sql": [f"{script}selec 1;"]}
    assert http.post("/v1/templates", json=body).status_code == 422
    second = http.get(f"/v1/templates/{name}@2").json()
    log = http.get(f"/v1/templates/{second['id']}/log").json()["log"]
    assert log.splitlines()[1] == 'ERROR:  sql[0], line 3: syntax error at or near "selec"'


def test_failed_sql_can_be_registered_again(http: httpx.Client, name: str) -> None:
    sql = {"name": name, "fingerprint": "1"}
    assert http.post("/v1/templates", json={**sql, "sql": ["selec 1"]}).status_code == 422
    mended = http.post("/v1/templates", json={**sql, "sql": ["select 1"]})
    assert (mended.status_code, mended.json()["state"]) == (201, "ready")


def test_name_without_fingerprint_means_newest_ready_template(http: httpx.Client, name: str) -> None:
    def lease_of(reference: str) -> str:
        lease = http.post("/v1/leases", json={"template": reference, "wait_seconds": LIMIT_SECONDS}).json()
        http.delete(f"/v1/leases/{lease['id']}")
        return str(lease["template"])

    for fingerprint in ("1", "2"):
        http.post("/v1/templates", json={"name": name, "fingerprint": fingerprint, "sql": ["select 1"]})
        assert lease_of(name) == f"{name}@{fingerprint}"
    http.post("/v1/templates", json={"name": name, "fingerprint": "3"})  # building
    assert lease_of(name) == f"{name}@2"
    assert lease_of(f"{name}@1") == f"{name}@1"


def test_retired_template_is_dropped_without_leftovers(
    http: httpx.Client, service: Service, name: str
) -> None:
    template = http.post("/v1/templates", json={"name": name, "sql": ["create table t (id int)"]}).json()
    lease = http.post("/v1/leases", json={"template": name}).json()
    refused = http.delete(f"/v1/templates/{name}")
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    assert http.delete(f"/v1/templates/{name}", params={"force": "true"}).json()["state"] == "retired"
    assert http.post("/v1/leases", json={"template": name}).json()["code"] == "template_not_found"
    with psycopg.connect(lease["url"]) as connection:
        connection.execute("select * from t")
    http.delete(f"/v1/leases/{lease['id']}")
    _until_gone(service, template["id"])
    while http.get(f"/v1/templates/{template['id']}").status_code != 404:
        time.sleep(0.05)
    assert not [
        pool for pool in http.get("/v1/pools").json()["items"] if pool["template_id"] == template["id"]
    ]


def _until_gone(service: Service, template_id: str) -> None:
    end = time.monotonic() + LIMIT_SECONDS
    with psycopg.connect(service.environment["FRESHDB_POSTGRES"], autocommit=True) as connection:
        pattern = f"{service.prefix}_t_{template_id.replace('-', '')[:12]}%"
        while connection.execute("select 1 from pg_database where datname like %s", (pattern,)).fetchone():
            assert time.monotonic() < end, "the template's database is still there"
            time.sleep(0.05)
