from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.limits import LIMIT_SECONDS
from tests.services import Service

Acquire = Callable[..., dict[str, Any]]


def samples(http: httpx.Client) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = http.get("/metrics").text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_service_is_live_and_ready(http: httpx.Client) -> None:
    assert http.get("/livez").json()["status"] == "ok"
    answer = http.get("/readyz")
    assert answer.status_code == 200
    assert set(answer.json()["checks"].values()) == {"ok"}


def test_metrics_count_grants_ends_waits_and_refusals(http: httpx.Client, acquire: Acquire) -> None:
    def read(name: str, **labels: str) -> float:
        return samples(http).get((name, frozenset(labels.items())), 0.0)

    def all_read() -> list[float]:
        return [
            read("freshdb_leases_granted_total", isolation="database"),
            read("freshdb_acquire_wait_seconds_count", isolation="database"),
            read("freshdb_leases_ended_total", how="released"),
            read("freshdb_refusals_total", code="template_not_found"),
        ]

    before = all_read()
    lease = acquire()
    http.delete(f"/v1/leases/{lease['id']}")
    http.post("/v1/leases", json={"template": "nope"})
    assert [after - was for was, after in zip(before, all_read(), strict=True)] == [1, 1, 1, 1]
    names = {
        "freshdb_databases",
        "freshdb_waiters",
        "freshdb_reset_seconds_count",
        "freshdb_provision_seconds_count",
    }
    end = time.monotonic() + LIMIT_SECONDS
    while not names <= {name for name, _ in samples(http)}:  # the reset runs after the release
        assert time.monotonic() < end
        time.sleep(0.05)


def test_metrics_have_no_lease_or_holder_as_label(http: httpx.Client, acquire: Acquire) -> None:
    lease = acquire(holder={"test": "somebody-in-particular"})
    text = http.get("/metrics").text
    assert lease["id"] not in text
    assert "somebody-in-particular" not in text


def test_each_transition_is_an_event(http: httpx.Client, service: Service, acquire: Acquire) -> None:
    seen: list[tuple[str, dict[str, Any]]] = []
    following = threading.Event()
    released = threading.Event()

    def follow() -> None:
        with httpx.stream("GET", f"{service.url}/v1/events", timeout=LIMIT_SECONDS) as stream:
            kind = ""
            for line in stream.iter_lines():
                following.set()
                if line.startswith("event: "):
                    kind = line.removeprefix("event: ")
                if line.startswith("data: "):
                    seen.append((kind, json.loads(line.removeprefix("data: "))))
                    if kind == "lease.released" and seen[-1][1]["holder"] == {"who": "events"}:
                        released.set()
                        return

    follower = threading.Thread(target=follow)
    follower.start()
    assert following.wait(LIMIT_SECONDS)
    lease = acquire(holder={"who": "events"})
    http.delete(f"/v1/leases/{lease['id']}")
    assert released.wait(LIMIT_SECONDS)
    follower.join()
    mine = [kind for kind, data in seen if data.get("lease") == lease["id"]]
    assert mine == ["lease.acquired", "lease.released"]
    assert lease["password"] not in json.dumps(seen)


def test_past_events_can_be_read_from_a_position(http: httpx.Client, acquire: Acquire) -> None:
    acquire()
    text = http.get("/v1/events", params={"follow": "false"}).text
    ids = [line.removeprefix("id: ") for line in text.splitlines() if line.startswith("id: ")]
    assert len(ids) > 1
    rest = http.get("/v1/events", params={"follow": "false", "since": ids[-2]}).text
    assert f"id: {ids[-1]}" in rest
    assert f"id: {ids[-2]}\n" not in rest
    assert http.get("/v1/events", params={"since": "nonsense"}).json()["code"] == "invalid_request"


def test_openapi_document_has_all_calls_and_the_problem_schema(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    calls = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert {
        ("POST", "/v1/templates"),
        ("POST", "/v1/templates/{template_id}/ready"),
        ("POST", "/v1/templates/{template_id}/failed"),
        ("POST", "/v1/leases"),
        ("POST", "/v1/leases/batch"),
        ("POST", "/v1/leases/{lease_id}/renew"),
        ("POST", "/v1/leases/{lease_id}/keep"),
        ("DELETE", "/v1/leases/{lease_id}"),
        ("PATCH", "/v1/pools/{pool_id}"),
        ("GET", "/v1/events"),
        ("GET", "/livez"),
        ("GET", "/readyz"),
        ("GET", "/metrics"),
    } <= calls
    assert "Problem" in document["components"]["schemas"]
