"""Each kind of bad input gets the documented status and code, and a message that names the remedy."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

Acquire = Callable[..., dict[str, Any]]


def problem(answer: httpx.Response, status: int, code: str, *words: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["code"] == code
    assert body["status"] == status
    assert body["title"]
    for word in words:
        assert word in body["detail"], body["detail"]
    return body


def test_unknown_template_is_not_found(http: httpx.Client) -> None:
    problem(
        http.post("/v1/leases", json={"template": "nope"}), 404, "template_not_found", "'nope'", "register"
    )
    problem(http.get("/v1/templates/nope"), 404, "template_not_found", "'nope'")
    problem(http.delete("/v1/templates/nope"), 404, "template_not_found")


def test_template_in_build_cannot_be_leased(http: httpx.Client, name: str) -> None:
    http.post("/v1/templates", json={"name": name, "fingerprint": "1"})
    body = problem(http.post("/v1/leases", json={"template": name}), 409, "template_building", "wait_seconds")
    assert name in body["detail"]


@pytest.mark.parametrize("ttl", [0, -1, 1e6 * 365 * 86400, 0.5, True, "soon", None, [], {}])
def test_ttl_out_of_range_is_refused_with_field_name(http: httpx.Client, shop: str, ttl: object) -> None:
    answer = http.post("/v1/leases", json={"template": shop, "ttl_seconds": ttl, "wait_seconds": 5})
    if ttl is None:  # the field is missing
        assert answer.status_code == 201
        http.delete(f"/v1/leases/{answer.json()['id']}")
        return
    body = problem(answer, 422, "invalid_request", "ttl_seconds")
    assert body["errors"][0]["field"] == "ttl_seconds"


@pytest.mark.parametrize("field", ["ttl_seconds", "wait_seconds"])
@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_invalid_number_is_refused_with_field_name(
    http: httpx.Client, shop: str, field: str, number: str
) -> None:
    answer = http.post(
        "/v1/leases",
        content=f'{{"template": "{shop}", "{field}": {number}}}',
        headers={"content-type": "application/json"},
    )
    body = problem(answer, 422, "invalid_request", field)
    assert body["errors"][0]["field"] == field


def test_wait_beyond_limit_is_refused_with_field_name(http: httpx.Client, shop: str) -> None:
    problem(
        http.post("/v1/leases", json={"template": shop, "wait_seconds": 301}),
        422,
        "invalid_request",
        "at most 300",
    )
    problem(
        http.post("/v1/leases", json={"template": shop, "wait_seconds": -1}),
        422,
        "invalid_request",
        "wait_seconds",
    )


@pytest.mark.parametrize(
    "body",
    [
        {"template": "x'; DROP TABLE leases; --"},
        {"template": ""},
        {"template": "a b"},
        {"template": "a@b@c d"},
        {"template": "x" * 500},
        {"template": "../../etc/passwd'"},
        {"template": "ok", "isolation": "row"},
        {"template": "ok", "holder": "me"},
        {"template": "ok", "labels": {"a": {"b": 1}}},
        {"template": "ok", "labels": {"": "x"}},
        {"template": "ok", "labels": {"x" * 200: "x"}},
        {"template": "ok", "labels": {"a": "nul\x00"}},
        {"template": "ok", "surprise": 1},
        {},
        [],
        "text",
        None,
    ],
)
def test_invalid_body_is_refused_with_field_name(http: httpx.Client, body: object) -> None:
    answer = problem(http.post("/v1/leases", json=body), 422, "invalid_request")
    assert answer["errors"][0]["field"]
    assert answer["errors"][0]["message"]


def test_body_that_is_not_json_is_refused(http: httpx.Client) -> None:
    answer = http.post("/v1/leases", content=b"{nope", headers={"content-type": "application/json"})
    problem(answer, 422, "invalid_request", "JSON")


def test_sql_in_labels_and_holder_is_stored_as_text(acquire: Acquire) -> None:
    evil = {"name": "Robert'); DROP TABLE leases; --", '"; $$': "\\'); SELECT pg_sleep(10); --"}
    lease = acquire(holder=evil, labels=evil)
    assert lease["holder"] == evil
    assert lease["labels"] == evil


@pytest.mark.parametrize("verb", ["renew", "keep"])
@pytest.mark.parametrize(
    "lease",
    ["not-an-id", "1", "'; DROP TABLE leases; --", "x" * 3000, "0b0e8a3c-1f5e-4d0c-9a54-6f5d3c2b1a00"],
)
def test_unknown_lease_is_not_found(http: httpx.Client, verb: str, lease: str) -> None:
    problem(http.post(f"/v1/leases/{lease}/{verb}", json={}), 404, "lease_not_found")
    problem(http.get(f"/v1/leases/{lease}"), 404, "lease_not_found")
    problem(http.delete(f"/v1/leases/{lease}"), 404, "lease_not_found")


@pytest.mark.parametrize(
    "body",
    [
        b"{nope",
        b"[]",
        b"1",
        b'"x"',
        b'{"ttl_seconds": "long"}',
        b'{"ttl_seconds": -1}',
        b'{"ttl_seconds": NaN}',
        b'{"ttl_seconds": 1e999}',
        b'{"ttl_seconds": true}',
        b'{"ttl": 60}',
        b'{"ttl_seconds": 60, "ttl_seconds": []}',
        b"\xff",
    ],
)
def test_invalid_heartbeat_body_is_refused_like_any_other(
    http: httpx.Client, acquire: Acquire, body: bytes
) -> None:
    """Heartbeats have a route of their own."""
    lease = acquire()["id"]
    headers = {"content-type": "application/json"}
    verbs = ("renew", "keep")
    answers = [http.post(f"/v1/leases/{lease}/{verb}", content=body, headers=headers) for verb in verbs]
    heartbeat, other = (problem(answer, 422, "invalid_request")["errors"] for answer in answers)
    assert [one["field"] for one in heartbeat] == [one["field"] for one in other]
    assert http.get(f"/v1/leases/{lease}").json()["state"] == "active"


@pytest.mark.parametrize("body", [b"", b"null", b"{}", b'{"ttl_seconds": null}'])
def test_heartbeat_body_is_optional(http: httpx.Client, acquire: Acquire, body: bytes) -> None:
    lease = acquire(ttl_seconds=40)["id"]
    headers = {"content-type": "application/json"} if body else {}
    renewed = http.post(f"/v1/leases/{lease}/renew", content=body, headers=headers)
    assert renewed.json()["ttl_seconds"] == pytest.approx(40, abs=1)


def test_ended_lease_is_refused(http: httpx.Client, acquire: Acquire) -> None:
    lease = acquire()["id"]
    assert http.delete(f"/v1/leases/{lease}", params={"force": "true"}).status_code == 200
    problem(
        http.post(f"/v1/leases/{lease}/renew", json={}), 410, "lease_ended", "revoked", "acquire a new one"
    )
    problem(http.post(f"/v1/leases/{lease}/keep", json={}), 410, "lease_ended", "revoked")
    problem(http.delete(f"/v1/leases/{lease}"), 410, "lease_ended", "revoked")


def test_acquire_times_out_when_no_database_becomes_free(
    http: httpx.Client, acquire: Acquire, name: str
) -> None:
    http.post("/v1/templates", json={"name": name, "sql": ["select 1"]})
    first = acquire(template=name)
    http.patch(f"/v1/pools/{first['pool_id']}", json={"min_ready": 0, "max_size": 1})
    held = [first]
    while True:  # databases that were ready before max_size was lowered
        answer = http.post("/v1/leases", json={"template": name, "wait_seconds": 0.2})
        if answer.status_code != 201:
            break
        held.append(answer.json())
    body = problem(answer, 503, "pool_exhausted", "became free in time", "wait longer")
    assert answer.headers["retry-after"] == "1"
    assert body["queue_position"] == 1
    assert body["queue_length"] == 1
    for lease in held:
        http.delete(f"/v1/leases/{lease['id']}")


def test_idempotency_key_with_another_body_is_refused(
    http: httpx.Client, acquire: Acquire, shop: str
) -> None:
    del acquire
    key = {"idempotency-key": uuid.uuid4().hex}
    first = http.post("/v1/leases", json={"template": shop}, headers=key)
    other = http.post("/v1/leases", json={"template": shop, "labels": {"a": "b"}}, headers=key)
    problem(other, 422, "idempotency_mismatch", "new key")
    http.delete(f"/v1/leases/{first.json()['id']}")
    problem(http.post("/v1/leases", json={"template": shop}, headers=key), 410, "lease_ended", "new key")


def test_body_of_50_megabytes_is_refused(http: httpx.Client) -> None:
    body = b'{"name": "big", "sql": ["' + b"x" * 50_000_000 + b'"]}'
    answer = http.post("/v1/templates", content=body, headers={"content-type": "application/json"})
    problem(answer, 413, "payload_too_large", "16777216 bytes")


def test_chunked_body_of_50_megabytes_is_refused(http: httpx.Client) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(50):
            yield b" " * 1_000_000

    try:
        answer = http.post("/v1/templates", content=parts(), headers={"content-type": "application/json"})
    except httpx.WriteError:
        return  # the service closed the connection, as it must
    problem(answer, 413, "payload_too_large")


def test_sql_syntax_error_names_statement_and_position(http: httpx.Client, name: str) -> None:
    sql = ["create table a (id int)", "create table b (id int);\nselect * frm a;\nselect 2"]
    body = problem(
        http.post("/v1/templates", json={"name": name, "sql": sql}), 422, "template_failed", "syntax error"
    )
    assert body["sql_index"] == 1
    assert "frm" in body["statement"]
    assert body["line"] == 2
    assert body["sqlstate"] == "42601"
    failed = http.get(f"/v1/templates/{name}").json()
    assert failed["state"] == "failed"
    assert failed["error"]["sqlstate"] == "42601"
    problem(http.post("/v1/leases", json={"template": name}), 422, "template_failed", "syntax error")


def test_sql_runtime_error_names_statement(http: httpx.Client, name: str) -> None:
    sql = [
        "create table a (id int primary key); insert into a values (1); insert into a values (1); select 1"
    ]
    body = problem(
        http.post("/v1/templates", json={"name": name, "sql": sql}), 422, "template_failed", "duplicate key"
    )
    assert body["sql_index"] == 0
    assert body["statement"] == "insert into a values (1);"
    assert sql[0][body["position"] - 1 :].startswith("insert into a values (1); select 1")


def test_other_sql_with_same_fingerprint_conflicts(http: httpx.Client, name: str) -> None:
    first = http.post("/v1/templates", json={"name": name, "fingerprint": "1", "sql": ["select 1"]})
    assert first.status_code == 201
    again = http.post("/v1/templates", json={"name": name, "fingerprint": "1", "sql": ["select 1"]})
    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
    other = http.post("/v1/templates", json={"name": name, "fingerprint": "1", "sql": ["select 2"]})
    problem(other, 409, "template_conflict", "another fingerprint")


def test_template_without_sql_and_fingerprint_is_refused(http: httpx.Client, name: str) -> None:
    problem(http.post("/v1/templates", json={"name": name}), 422, "invalid_request", "fingerprint")


def test_unavailable_extension_is_refused(http: httpx.Client, name: str) -> None:
    body = {"name": name, "sql": ["select 1"], "extensions": ["no_such_thing"]}
    assert http.post("/v1/templates", json=body).status_code == 422


@pytest.mark.parametrize("schema", ["pg_mine", "information_schema"])
def test_schema_of_postgresql_is_refused_for_an_extension(http: httpx.Client, name: str, schema: str) -> None:
    body = {"name": name, "sql": ["select 1"], "extensions": [{"name": "vector", "schema": schema}]}
    problem(http.post("/v1/templates", json=body), 422, "invalid_request", "extensions.0.schema")


def test_extension_named_twice_is_refused(http: httpx.Client, name: str) -> None:
    body = {"name": name, "sql": ["select 1"], "extensions": ["vector", {"name": "vector", "schema": "a"}]}
    problem(http.post("/v1/templates", json=body), 422, "invalid_request", "vector is named twice")


def test_extensions_are_given_back_in_their_shortest_form(http: httpx.Client, name: str) -> None:
    body = {
        "name": name,
        "sql": ["select 1"],
        "extensions": [{"name": "plpgsql"}, {"name": "vector", "schema": "a"}],
    }
    registered = http.post("/v1/templates", json=body).json()
    assert registered["extensions"] == ["plpgsql", {"name": "vector", "schema": "a", "version": None}]
    other = {**body, "fingerprint": registered["fingerprint"], "extensions": ["plpgsql", "vector"]}
    problem(http.post("/v1/templates", json=other), 409, "template_conflict")


@pytest.mark.parametrize(
    "sizes", [{"min_ready": -1}, {"max_size": 0}, {"min_ready": 10, "max_size": 5}, {"nope": 1}]
)
def test_impossible_pool_sizes_are_refused(
    http: httpx.Client, acquire: Acquire, sizes: dict[str, int]
) -> None:
    pool = acquire()["pool_id"]
    problem(http.patch(f"/v1/pools/{pool}", json=sizes), 422, "invalid_request")
    problem(http.patch("/v1/pools/nope", json={}), 404, "pool_not_found")


@pytest.mark.parametrize(
    "query",
    ["cursor=nonsense", "cursor=MjAyNnxub3Bl", "limit=0", "limit=100000", "state=asleep", "label.a=%00"],
)
def test_invalid_query_of_list_is_refused(http: httpx.Client, query: str) -> None:
    problem(http.get(f"/v1/leases?{query}"), 422, "invalid_request")


def test_unknown_path_or_method_is_refused(http: httpx.Client) -> None:
    problem(http.get("/v1/nothing"), 404, "not_found")
    answer = http.put("/v1/leases", json={})
    problem(answer, 405, "method_not_allowed")
    assert "allow" in answer.headers


def test_ended_build_is_refused(http: httpx.Client, name: str) -> None:
    build = http.post("/v1/templates", json={"name": name, "fingerprint": "1"}).json()
    wrong = {"token": "guessed"}
    for verb in ("renew", "ready", "failed"):
        problem(
            http.post(f"/v1/templates/{build['id']}/{verb}", json=wrong),
            409,
            "build_lost",
            "register the template again",
        )
    token = {"token": build["build"]["token"]}
    assert http.post(f"/v1/templates/{build['id']}/failed", json=token).status_code == 200
    problem(http.post(f"/v1/templates/{build['id']}/ready", json=token), 409, "build_lost")


def test_batch_beyond_limit_is_refused(http: httpx.Client, shop: str) -> None:
    body = {"leases": [{"template": shop}] * 51}
    problem(http.post("/v1/leases/batch", json=body), 422, "invalid_request", "at most 50")
    problem(http.post("/v1/leases/batch", json={"leases": []}), 422, "invalid_request", "leases")
