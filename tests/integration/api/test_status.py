"""HTTP calls of the dashboard: overview, queue, databases and their history, statistics, servers, events."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest

from tests import plain_http
from tests.limits import LIMIT_SECONDS
from tests.servers import PostgresServer
from tests.services import Service, start_service

pytestmark = pytest.mark.xdist_group("api-looking")  # one service for the tests of this module

Acquire = Callable[..., dict[str, Any]]
Item = dict[str, Any]


@pytest.fixture(scope="module")
def watched(postgres_18: PostgresServer, service_redis_url: str) -> Iterator[Service]:
    """A separate service that writes its history at once."""
    running = start_service(
        [postgres_18.dsn],
        service_redis_url,
        settings={"min_ready": 1, "max_size": 2, "history_flush_seconds": 0.2},
    )
    yield running
    assert running.stop() == 0


@pytest.fixture
def looker(watched: Service) -> Iterator[httpx.Client]:
    with httpx.Client(
        verify=plain_http.NO_CERTIFICATES, base_url=watched.url, timeout=LIMIT_SECONDS
    ) as client:
        yield client


@pytest.fixture
def template(looker: httpx.Client) -> Iterator[str]:
    name = f"t{uuid4().hex[:8]}"
    body = {"name": name, "sql": ["create table item (id serial primary key, name text)"]}
    assert looker.post("/v1/templates", json=body).json()["state"] == "ready"
    yield name
    looker.delete(f"/v1/templates/{name}", params={"force": True})


def acquire(looker: httpx.Client, template: str, **body: object) -> Item:
    answer = looker.post("/v1/leases", json={"template": template, **body})
    assert answer.status_code == 201, answer.text
    lease: Item = answer.json()
    return lease


def get(looker: httpx.Client, path: str, **query: object) -> Any:  # noqa: ANN401 - an answer
    answer = looker.get(path, params={key: str(value) for key, value in query.items()})
    assert answer.status_code == 200, answer.text
    return answer.json()


def eventually(look: Callable[[], Any], wanted: Callable[[Any], bool]) -> Any:  # noqa: ANN401 - an answer
    until = time.monotonic() + LIMIT_SECONDS
    while not wanted(seen := look()):
        assert time.monotonic() < until, seen
        time.sleep(0.05)
    return seen


def test_service_without_tokens_grants_all_scopes(looker: httpx.Client) -> None:
    me = get(looker, "/v1/whoami")
    assert me == {"principal": "anonymous", "scopes": ["read", "lease", "build", "admin"], "open": True}


def test_overview_has_findings_and_counts(looker: httpx.Client, template: str) -> None:
    lease = acquire(looker, template)
    seen = get(looker, "/v1/overview")
    assert seen["status"] == "ok"
    assert seen["leases"]["active"] == len(get(looker, "/v1/leases")["items"]) == 1
    assert seen["databases"]["leased"] == 1
    assert (seen["waiting"], seen["servers"]) == (0, 1)
    looker.delete(f"/v1/leases/{lease['id']}")


def test_overview_shows_waiter_with_cause_and_remedy(looker: httpx.Client, template: str) -> None:
    held = [acquire(looker, template) for _ in range(2)]
    holder = {"test": "tests/test_shop.py::test_one", "run": "https://ci.example/7"}
    body = {"template": template, "wait_seconds": LIMIT_SECONDS, "holder": holder}
    waiter = threading.Thread(target=lambda: looker.post("/v1/leases", json=body))
    waiter.start()
    pool_id = held[0]["pool_id"]
    # The place of an acquire that was just answered may stay in the queue for some seconds.
    [seen] = eventually(
        lambda: get(looker, "/v1/waiters", pool=pool_id)["items"],
        lambda items: [one["holder"] for one in items] == [holder],
    )
    assert (seen["position"], seen["wanted"], seen["principal"], seen["holder"]) == (
        1,
        1,
        "anonymous",
        holder,
    )
    assert seen["template"].startswith(f"{template}@")
    assert seen["waited_seconds"] < 30
    assert "maximum of 2 databases" in seen["why"]
    assert "max_size" in seen["remedy"]
    glance = get(looker, "/v1/overview")
    assert glance["waiting"] == 1
    # Other users of this PostgreSQL may cause another finding.
    assert "pool_full" in [one["code"] for one in glance["findings"]]
    for lease in held:
        looker.delete(f"/v1/leases/{lease['id']}")
    waiter.join()
    assert get(looker, "/v1/waiters")["items"] == []


def test_database_history_has_holders_and_their_leftovers(looker: httpx.Client, template: str) -> None:
    first = acquire(looker, template, holder={"test": "one"})
    with psycopg.connect(first["url"], autocommit=True) as connection:
        connection.execute("insert into item (name) values ('left')")
        connection.execute("select pg_advisory_lock(1)")
        connection.execute("create table more (id int)")
        looker.delete(f"/v1/leases/{first['id']}")
    path = f"/v1/databases/{first['database_id']}"
    [reset] = eventually(lambda: get(looker, "/v1/resets", lease=first["id"])["items"], bool)
    assert (reset["path"], reset["generation"]) == ("rebuild", first["generation"] + 1)
    assert reset["leftovers"]["connections"] == 1
    assert reset["leftovers"]["advisory_locks"] == 1
    assert any("more" in one for one in reset["leftovers"]["objects"])
    life = get(looker, path)
    assert [one["holder"] for one in life["leases"]] == [{"test": "one"}]
    assert life["leases"][0]["password"] is None
    assert life["resets"] == [reset]
    assert life["state"] == "ready"
    assert reset in get(looker, "/v1/resets", left_behind=True)["items"]


def test_reset_in_place_is_recorded_with_its_lease(looker: httpx.Client, template: str) -> None:
    lease = acquire(looker, template)
    assert looker.post(f"/v1/leases/{lease['id']}/reset").status_code == 200
    looker.delete(f"/v1/leases/{lease['id']}")
    resets = eventually(
        lambda: get(looker, "/v1/resets", lease=lease["id"])["items"], lambda seen: len(seen) == 2
    )
    assert [one["generation"] - lease["generation"] for one in resets] == [2, 1]


def test_resets_are_paginated(looker: httpx.Client, template: str) -> None:
    lease = acquire(looker, template)
    for _ in range(2):
        looker.post(f"/v1/leases/{lease['id']}/reset")
    looker.delete(f"/v1/leases/{lease['id']}")
    whole = eventually(
        lambda: get(looker, "/v1/resets", database=lease["database_id"])["items"],
        lambda seen: len(seen) == 3,
    )
    paged, cursor = [], None
    while True:
        query = {"database": lease["database_id"], "limit": 1, **({"cursor": cursor} if cursor else {})}
        page = get(looker, "/v1/resets", **query)
        paged += page["items"]
        if (cursor := page["next"]) is None:
            break
    assert paged == whole


def test_databases_are_filtered_by_pool_and_state_and_paginated(looker: httpx.Client, template: str) -> None:
    lease = acquire(looker, template)
    pool = lease["pool_id"]
    [leased] = get(looker, "/v1/databases", pool=pool, state="leased")["items"]
    assert (leased["id"], leased["lease_id"]) == (lease["database_id"], lease["id"])
    assert leased["database"] == lease["database"]
    eventually(lambda: get(looker, "/v1/databases", pool=pool)["items"], lambda seen: len(seen) == 2)
    first = get(looker, "/v1/databases", pool=pool, limit=1)
    second = get(looker, "/v1/databases", pool=pool, limit=1, cursor=first["next"])
    assert len({first["items"][0]["id"], second["items"][0]["id"]}) == 2
    assert looker.get(f"/v1/databases/{uuid4()}").json()["code"] == "database_not_found"
    assert looker.get("/v1/databases/nope").json()["code"] == "database_not_found"
    looker.delete(f"/v1/leases/{lease['id']}")


def test_pool_history_counts_grants_and_resets(looker: httpx.Client, template: str) -> None:
    pool = ""
    for _ in range(3):
        lease = acquire(looker, template)
        pool = lease["pool_id"]
        looker.delete(f"/v1/leases/{lease['id']}")
    path = f"/v1/pools/{pool}/history"
    history = eventually(lambda: get(looker, path), lambda seen: seen["resets"]["count"] == 3)
    assert history["waits"]["count"] == 3
    assert 0 < history["waits"]["p50"] <= history["waits"]["p99"]
    assert 0 < history["resets"]["p50"] <= history["resets"]["p99"]
    assert sum(history["paths"].values()) == 3
    assert sum(point["waits"]["count"] for point in history["items"]) == 3
    assert history["step_seconds"] == 60
    assert sum(eventually(lambda: get(looker, path)["items"][-1]["databases"], bool).values()) >= 1
    assert get(looker, path, seconds=86_400)["step_seconds"] == 300
    assert looker.get(f"/v1/pools/{uuid4()}/history").json()["code"] == "pool_not_found"
    assert looker.get(path, params={"seconds": 86_401}).status_code == 422


def test_history_is_shared_by_replicas_and_survives_one(
    postgres_18: PostgresServer, service_redis_url: str
) -> None:
    settings = {"min_ready": 1, "history_flush_seconds": 3600}
    pool = ""
    one = start_service([postgres_18.dsn], service_redis_url, settings=settings)
    two = start_service([postgres_18.dsn], service_redis_url, settings=settings, replica_of=one)
    try:
        with httpx.Client(timeout=LIMIT_SECONDS) as http:
            http.post(f"{one.url}/v1/templates", json={"name": "shared", "sql": ["select 1"]})
            for replica in (one, two):
                lease = http.post(f"{replica.url}/v1/leases", json={"template": "shared"}).json()
                pool = lease["pool_id"]
                http.delete(f"{replica.url}/v1/leases/{lease['id']}")
                eventually(
                    lambda: http.get(f"{one.url}/v1/pools/{pool}").json()["databases"],  # noqa: B023 - at once
                    lambda held: not held.get("dirty") and not held.get("resetting"),
                )
    finally:
        # Each replica writes its history when it stops.
        assert (one.stop(), two.stop()) == (0, 0)
    third = start_service([postgres_18.dsn], service_redis_url, settings=settings, replica_of=one)
    try:
        history = plain_http.get(f"{third.url}/v1/pools/{pool}/history").json()
        assert (history["waits"]["count"], history["resets"]["count"]) == (2, 2)
    finally:
        assert third.stop() == 0


def test_server_shows_its_databases_and_activity(looker: httpx.Client, template: str) -> None:
    lease = acquire(looker, template)
    [server] = get(looker, "/v1/servers")["items"]
    assert server["leased"] == get(looker, "/v1/overview")["databases"]["leased"]
    assert server["error"] is None
    assert 0 < server["connections"] < server["max_connections"]
    assert server["version"] == 18
    assert 0 < server["databases"] <= server["max_databases"]
    looker.delete(f"/v1/leases/{lease['id']}")


def test_events_are_filtered_by_kind_and_subject(looker: httpx.Client, template: str) -> None:
    lease = acquire(looker, template, holder={"test": "about-this-one"})
    looker.delete(f"/v1/leases/{lease['id']}")

    def kinds(**query: object) -> list[str]:
        return [one["event"] for one in get(looker, "/v1/events/recent", **query)["items"]]

    wanted = ["lease.released", "lease.acquired"]
    eventually(lambda: kinds(about=lease["id"]), lambda seen: seen == wanted)
    assert kinds(about="about-this-one") == wanted
    assert kinds(about=template, kind="lease.*") == wanted
    assert kinds(about=lease["id"], kind="lease.acquired") == ["lease.acquired"]
    assert kinds(about="nobody") == []
    page = get(looker, "/v1/events/recent", about=lease["id"], limit=1)
    assert [one["event"] for one in page["items"]] == ["lease.released"]
    assert kinds(about=lease["id"], cursor=page["next"]) == ["lease.acquired"]


def test_other_origins_cannot_read_or_change_a_service_without_tokens(looker: httpx.Client) -> None:
    evil = {"origin": "https://evil.example"}
    answer = looker.post("/v1/templates", json={"name": "evil", "sql": ["select 1"]}, headers=evil)
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    answer = looker.get("/v1/leases", headers={"host": "evil.example"})
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert "access-control-allow-origin" not in looker.options("/v1/leases", headers=evil).headers
    assert get(looker, "/v1/templates", name="evil")["items"] == []


def test_dashboard_has_strict_policy_and_etag(looker: httpx.Client) -> None:
    page = looker.get("/")
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    again = looker.get("/", headers={"if-none-match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    script = looker.get("/dashboard/app.js")
    assert script.headers["content-type"].startswith("text/javascript")
    for wrong in ("/dashboard/nope.js", "/dashboard/..%2f__init__.py", "/dashboard/index.html"):
        assert looker.get(wrong).json()["code"] == "not_found"
    assert looker.post("/").headers["allow"] == "GET"
