"""Log lines of a real service: as JSON and for a console, with their context fields, and without secrets."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests import plain_http
from tests.limits import LIMIT_SECONDS
from tests.servers import PostgresServer
from tests.services import Service, start_service

pytestmark = pytest.mark.xdist_group("logs")  # one service for the tests of this module
SQL = ["create table item (id int)"]


@pytest.fixture(scope="module")
def service(postgres_18: PostgresServer, service_redis_url: str) -> Iterator[Service]:
    running = start_service(
        [postgres_18.dsn],
        service_redis_url,
        settings={"log_format": "json", "log_level": "debug", "min_ready": 1},
    )
    yield running
    assert running.stop() == 0
    assert all(isinstance(json.loads(line), dict) for line in running.log.splitlines())


@pytest.fixture(scope="module")
def http(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(
        verify=plain_http.NO_CERTIFICATES, base_url=service.url, timeout=LIMIT_SECONDS
    ) as client:
        client.post("/v1/templates", json={"name": "logged", "sql": SQL}).raise_for_status()
        yield client


def lines(service: Service, **wanted: object) -> list[dict[str, Any]]:
    """Wait for lines with these fields, and return them."""
    end = time.monotonic() + LIMIT_SECONDS
    while True:
        every: list[dict[str, Any]] = [json.loads(line) for line in service.log.splitlines()]
        found = [one for one in every if wanted.items() <= one.items()]
        if found:
            return found
        assert time.monotonic() < end, service.log
        time.sleep(0.05)


def test_request_has_one_line_with_its_id_lease_pool_and_database(
    http: httpx.Client, service: Service
) -> None:
    answer = http.post("/v1/leases", json={"template": "logged"}, headers={"X-Request-Id": "job-7.acquire"})
    lease = answer.json()
    assert answer.headers["x-request-id"] == "job-7.acquire"
    [line] = lines(service, request="job-7.acquire")
    assert line["logger"] == "freshdb.access"
    assert line["level"] == "info"
    assert line["message"] == "POST /v1/leases: 201"
    assert (line["method"], line["path"], line["status"]) == ("POST", "/v1/leases", 201)
    assert (line["lease"], line["pool"], line["database"]) == (
        lease["id"],
        lease["pool_id"],
        lease["database"],
    )
    assert line["template"].startswith("logged@")
    assert (line["principal"], line["address"]) == ("anonymous", "127.0.0.1")
    assert 0 < line["seconds"] < 60
    assert line["at"].endswith("Z")
    http.delete(f"/v1/leases/{lease['id']}")
    assert lines(service, lease=lease["id"], method="DELETE", status=200)


def test_every_response_has_its_own_id_and_invalid_ids_are_replaced(http: httpx.Client) -> None:
    ids = {http.get("/livez").headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3
    given = http.get("/livez", headers={"X-Request-Id": 'a" b'}).headers["x-request-id"]
    assert given not in ids
    assert len(given) == 16
    assert http.get("/nowhere").headers["x-request-id"]


def test_probes_and_heartbeats_are_logged_at_debug_only(http: httpx.Client, service: Service) -> None:
    lease = http.post("/v1/leases", json={"template": "logged"}).json()
    http.post(f"/v1/leases/{lease['id']}/renew")
    for path in ("/livez", "/readyz", "/metrics"):
        http.get(path)
        assert {one["level"] for one in lines(service, path=path)} == {"debug"}
    assert {one["level"] for one in lines(service, path=f"/v1/leases/{lease['id']}/renew")} == {"debug"}
    http.delete(f"/v1/leases/{lease['id']}")


def test_failed_request_is_logged_with_its_status_and_line_breaks_are_escaped(
    http: httpx.Client, service: Service
) -> None:
    http.get("/v1/leases/no%0Alease", headers={"X-Request-Id": "broken"})
    [line] = lines(service, request="broken")
    assert (line["status"], line["path"]) == (404, "/v1/leases/no\nlease")


def test_lines_of_uvicorn_have_the_same_format(http: httpx.Client, service: Service) -> None:
    http.get("/livez")
    assert {"at", "level", "message"} <= lines(service, logger="uvicorn.error")[0].keys()


def test_console_line_is_readable_and_has_no_line_break(postgres_18: PostgresServer, redis_url: str) -> None:
    running = start_service([postgres_18.dsn], redis_url, settings={"log_format": "console"})
    try:
        plain_http.get(f"{running.url}/v1/leases/no%0Alease", headers={"X-Request-Id": "broken"})
        plain_http.get(f"{running.url}/livez")
    finally:
        assert running.stop() == 0
    [line] = [one for one in running.log.splitlines() if "request=broken" in one]
    assert "INFO    freshdb.access: GET /v1/leases/no\\nlease: 404" in line
    assert "/livez" not in running.log


def test_log_without_a_terminal_is_json_and_access_lines_can_be_disabled(
    postgres_18: PostgresServer, redis_url: str
) -> None:
    running = start_service(
        [postgres_18.dsn], redis_url, settings={"log_format": "auto", "access_log": "false"}
    )
    try:
        plain_http.get(f"{running.url}/v1/leases")
    finally:
        assert running.stop() == 0
    said = [json.loads(line) for line in running.log.splitlines()]
    assert any("listens on" in one["message"] for one in said)
    assert not any(one["logger"] == "freshdb.access" for one in said)
