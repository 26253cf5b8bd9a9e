"""HTTP calls after an update of the collations: what status, errors, events and the audit log say."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psycopg
import pytest

from tests import plain_http
from tests.limits import LIMIT_SECONDS
from tests.servers import PostgresServer
from tests.services import Service, start_service

REASON = "it was built with collation version 0, and the server"
Found = dict[str, Any]


@pytest.fixture(scope="module")
def reconciled(postgres_18: PostgresServer, service_redis_url: str) -> Iterator[Service]:
    """A service that compares its server with the control plane all the time."""
    settings = {"min_ready": 1, "reconciler_seconds": 0.1}
    running = start_service([postgres_18.dsn], service_redis_url, settings=settings)
    yield running
    assert running.stop() == 0


@pytest.fixture
def client(reconciled: Service) -> Iterator[httpx.Client]:
    with httpx.Client(
        verify=plain_http.NO_CERTIFICATES, base_url=reconciled.url, timeout=LIMIT_SECONDS
    ) as one:
        yield one


def update_library(service: Service, template: Found) -> None:
    """Make a template older than the server's collations, as it is after an update of the C library."""
    with psycopg.connect(service.control_dsn, autocommit=True) as connection:
        statement = "update pg_database set datcollversion = '0' from templates where datname = database_name and id = %s"
        assert connection.execute(statement, [template["id"]]).rowcount == 1


def eventually(look: Callable[[], Any], wanted: Callable[[Any], bool]) -> Any:  # noqa: ANN401 - an answer
    until = time.monotonic() + LIMIT_SECONDS
    while not wanted(seen := look()):
        assert time.monotonic() < until, seen
        time.sleep(0.05)
    return seen


def build(client: httpx.Client, name: str) -> Found:
    """Build an empty template as a command does."""
    registered = client.post("/v1/templates", json={"name": name, "fingerprint": "1"}).json()
    path, token = f"/v1/templates/{registered['id']}/ready", registered["build"]["token"]
    ready: Found = client.post(path, json={"token": token}).json()
    assert ready["state"] == "ready"
    return ready


def findings(client: httpx.Client, label: str) -> list[Found]:
    """Return the findings about a template, but not the warning that it is empty."""
    found = client.get("/v1/overview").json()["findings"]
    return [one for one in found if one["label"] == label and one["code"] != "template_warnings"]


def test_template_of_a_command_is_refused_with_the_remedy_until_it_is_built_again(
    client: httpx.Client, reconciled: Service
) -> None:
    template = build(client, "commanded")
    update_library(reconciled, template)
    [finding] = eventually(lambda: findings(client, "commanded@1"), bool)
    assert (finding["severity"], finding["code"]) == ("warning", "template_outdated")
    assert finding["message"].startswith(f"it was retired: {REASON}")
    assert "freshdb template build" in finding["remedy"]
    for call in (
        client.post("/v1/leases", json={"template": "commanded"}),
        client.get("/v1/templates/commanded"),
    ):
        problem = call.json()
        assert (call.status_code, problem["code"]) == (404, "template_not_found")
        assert problem["detail"].startswith(f"the template commanded@1 was retired: {REASON}")
        assert "build it again (freshdb template build" in problem["detail"]
    listed = client.get("/v1/templates", params={"name": "commanded"}).json()["items"]
    assert [(one["state"], REASON in one["error"]["message"]) for one in listed] == [("retired", True)]
    build(client, "commanded")
    assert client.post("/v1/leases", json={"template": "commanded", "wait_seconds": 60}).status_code == 201
    assert findings(client, "commanded@1") == []


def test_template_with_sql_is_built_again_and_recorded(client: httpx.Client, reconciled: Service) -> None:
    body = {"name": "scripted", "sql": ["create table item (id int)"], "wait_seconds": 60}
    template = client.post("/v1/templates", json=body).json()
    held = client.post("/v1/leases", json={"template": "scripted", "wait_seconds": 60}).json()
    update_library(reconciled, template)
    again = eventually(
        lambda: client.get("/v1/templates/scripted").json(),
        lambda one: one["id"] != template["id"] and one["state"] == "ready",
    )
    assert again["fingerprint"] == template["fingerprint"]
    with psycopg.connect(held["url"]) as connection:  # the live lease goes on
        assert connection.execute("table item").fetchall() == []
    client.delete(f"/v1/leases/{held['id']}")
    new = client.post("/v1/leases", json={"template": "scripted", "wait_seconds": 60}).json()
    assert new["template_id"] == again["id"]
    label = f"scripted@{template['fingerprint']}"
    entries = client.get("/v1/audit", params={"label": label}).json()["items"]
    reasons = {one["action"] for one in entries if REASON in one["details"].get("reason", "")}
    assert reasons == {"template.retired", "template.building"}
    recent = client.get("/v1/events", params={"follow": "false", "since": "0"}).text
    [retired] = [one for one in recent.split("\n\n") if "event: template.retired" in one and label in one]
    assert REASON in retired
