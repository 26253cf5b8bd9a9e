"""SQL, Lua, HTML and other hostile strings are returned unchanged, or refused with the field name. They are never run."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.limits import LIMIT_SECONDS

Acquire = Callable[..., dict[str, Any]]

STRINGS = (
    "Robert'); DROP TABLE leases; --",
    '"; SELECT pg_terminate_backend(pid) FROM pg_stat_activity; --',
    "$$; $1; %s; %(a)s; {0}; {self.__class__}; ${7*7}; #{7*7}; {{7*7}}",
    "return redis.call('FLUSHALL')",
    "a|b|c] * \r\nSET x 1\r\n",
    "\n\nid: 1\nevent: lease.released\ndata: {}\n\n",
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "../../../../etc/passwd",
    "\u202egnp.exe\u2066 \ufeff\u0007\x1b[31m",
    "\uff41\uff44\uff4d\uff49\uff4e Ω≈ç√ 👩\u200d👩\u200d👧\u200d👦 ﷽",
    "-1e999",
    "\\'; \\x27; \\u0027",
)
"""None has U+0000, which PostgreSQL cannot store. A test below shows that it is refused."""


def refused(answer: httpx.Response, *fields: str) -> None:
    assert answer.status_code == 422, answer.text
    document = answer.json()
    assert document["code"] == "invalid_request"
    assert {one["field"] for one in document["errors"]} >= set(fields)


@pytest.mark.parametrize("text", STRINGS)
def test_hostile_holders_labels_and_keys_are_returned_unchanged(
    http: httpx.Client, acquire: Acquire, text: str
) -> None:
    mark = uuid.uuid4().hex
    pairs = {text[:100]: text, "mark": mark}
    lease = acquire(holder=pairs, labels=pairs)
    assert lease["holder"] == lease["labels"] == pairs
    shown = http.get(f"/v1/leases/{lease['id']}").json()
    assert shown["holder"] == shown["labels"] == pairs
    found = http.get(
        "/v1/leases", params={f"holder.{text[:100]}": text, f"label.{text[:100]}": text, "label.mark": mark}
    )
    assert [one["id"] for one in found.json()["items"]] == [lease["id"]]
    kept = http.post(f"/v1/leases/{lease['id']}/keep", json={"reason": text})
    assert kept.status_code == 200


@pytest.mark.parametrize("text", STRINGS)
def test_hostile_strings_do_not_break_events(http: httpx.Client, acquire: Acquire, text: str) -> None:
    lease = acquire(holder={"said": text})
    http.delete(f"/v1/leases/{lease['id']}")  # events are ordered, so earlier ones have arrived by then
    following = http.stream("GET", "/v1/events", params={"since": "0"}, timeout=LIMIT_SECONDS)
    seen: dict[str, Any] = {}
    with following as stream:
        kind = ""
        for line in stream.iter_lines():
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            if line.startswith("data: "):
                data = json.loads(line.removeprefix("data: "))
                assert {"at"} <= set(data)
                if data.get("lease") == lease["id"]:
                    seen[kind] = data["holder"]
                    if kind == "lease.released":
                        break
    assert seen == {"lease.acquired": {"said": text}, "lease.released": {"said": text}}


@pytest.mark.parametrize("text", [one for one in STRINGS if one.isascii() and one.isprintable()])
def test_hostile_idempotency_key_works_as_any_other(http: httpx.Client, shop: str, text: str) -> None:
    headers = {"idempotency-key": text + uuid.uuid4().hex}
    first = http.post("/v1/leases", json={"template": shop}, headers=headers)
    again = http.post("/v1/leases", json={"template": shop}, headers=headers)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json()["id"] == again.json()["id"]
    http.delete(f"/v1/leases/{first.json()['id']}")


@pytest.mark.parametrize("text", STRINGS)
def test_hostile_names_are_refused_with_field_name(http: httpx.Client, text: str) -> None:
    refused(http.post("/v1/templates", json={"name": text, "fingerprint": "1"}), "name")
    refused(
        http.post("/v1/templates", json={"name": "ok", "sql": ["select 1"], "extensions": [text]}),
        "extensions.0",
    )
    for key in ("name", "schema", "version"):
        extension = {"name": "vector", key: text}
        body = {"name": "ok", "sql": ["select 1"], "extensions": [extension]}
        refused(http.post("/v1/templates", json=body), f"extensions.0.{key}")
    refused(http.post("/v1/leases", json={"template": text}), "template")
    refused(http.post("/v1/leases", json={"template": "ok", "isolation": text}), "isolation")
    refused(
        http.post("/v1/leases", json={"template": "ok", "ttl_seconds": text, "wait_seconds": text}),
        "ttl_seconds",
    )
    refused(http.post("/v1/leases", json={"template": "ok", text: text}), text)
    refused(http.get("/v1/leases", params={"cursor": text}), "cursor")
    refused(
        http.get("/v1/leases", params={"state": text, "limit": text, "isolation": text}), "state.0", "limit"
    )
    refused(http.get("/v1/templates", params={"name": text, "cursor": text, "state": text}), "name", "cursor")
    refused(http.get("/v1/pools", params={"cursor": text}), "cursor")
    refused(http.get("/v1/events", params={"since": text, "follow": "false"}), "since")


@pytest.mark.parametrize("text", STRINGS)
def test_hostile_references_find_nothing(http: httpx.Client, text: str) -> None:
    path = quote(text, safe="")
    slashed = "/" in text
    for method, call, code in (
        ("GET", f"/v1/leases/{path}", "lease_not_found"),
        ("POST", f"/v1/leases/{path}/renew", "lease_not_found"),
        ("DELETE", f"/v1/leases/{path}", "lease_not_found"),
        ("GET", f"/v1/pools/{path}", "pool_not_found"),
        ("GET", f"/v1/templates/{path}", "template_not_found"),
        ("DELETE", f"/v1/templates/{path}", "template_not_found"),
    ):
        answer = http.request(method, call)
        assert answer.status_code in {404, 405} if slashed else answer.status_code == 404, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert slashed or answer.json()["code"] in {code, "not_found"}
    assert http.get("/v1/leases", params={"template": text}).json()["items"] == []


@pytest.mark.parametrize("verb", ["ready", "failed", "renew"])
@pytest.mark.parametrize("text", [*STRINGS, "nul\x00"])
def test_hostile_build_token_is_refused(http: httpx.Client, name: str, verb: str, text: str) -> None:
    build = http.post("/v1/templates", json={"name": name, "fingerprint": "1"}).json()
    answer = http.post(f"/v1/templates/{build['id']}/{verb}", json={"token": text})
    assert answer.status_code in {409, 422}
    assert answer.json()["code"] in {"build_lost", "invalid_request"}


def test_hostile_reason_of_failed_build_is_stored_unchanged(http: httpx.Client, name: str) -> None:
    build = http.post("/v1/templates", json={"name": name, "fingerprint": "1"}).json()
    reason = "\n".join(STRINGS)
    body = {"token": build["build"]["token"], "message": reason}
    assert http.post(f"/v1/templates/{build['id']}/failed", json=body).status_code == 200
    assert http.get(f"/v1/templates/{build['id']}").json()["error"]["message"] == reason


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"template": ' + b'{"a":' * 50_000,
        b'{"template": "ok", "ttl_seconds": ' + b"9" * 10_000 + b"}",
        b'{"template": "\\ud800"}',
        b'{"template": "ok", "\\ud800": 1}',
        b'{"template": "ok", "holder": {"\\ud800": "x"}}',
        b'{"template": "ok", "holder": {"a": "\\udfff\\ud800"}}',
        b'{"template": "ok", "labels": {"nul\\u0000": "x"}}',
        b"\xff\xfe{\x00}\x00",
        b'\xef\xbb\xbf{"template": 1}',
        b'{"template": "ok", "holder": {"a": "\xff\xfe"}}',
        b'"\\u0000"',
        b"NaN",
    ],
    ids=range(13),
)
def test_malicious_json_is_refused(http: httpx.Client, body: bytes) -> None:
    answer = http.post("/v1/leases", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["field"]


def test_body_of_other_content_type_is_refused(http: httpx.Client) -> None:
    for kind in ("text/html", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        headers = {"content-type": kind} if kind else {}
        answer = http.post("/v1/leases", content=b"template=shop", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
        assert "application/json" in answer.json()["detail"]
