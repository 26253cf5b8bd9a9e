"""An acquire is one trace through the real client, the real service, Redis and PostgreSQL, without any secret."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from opentelemetry.sdk.trace import TracerProvider

from freshdb import Client
from freshdb_service.observability.tracing import UNTRACED, from_environment
from tests import plain_http
from tests.limits import LIMIT_SECONDS
from tests.observability.receiver import Receiver, Span, receiving
from tests.servers import PostgresServer
from tests.services import Service, start_service

pytestmark = pytest.mark.xdist_group("tracing")  # one service for the tests of this module
TOKEN = "token-that-is-in-no-trace"
PROGRAM = """
import sys
import threading
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)
import asyncio
from freshdb import AsyncClient, Client
def blocking():
    with Client() as client, client.lease("traced") as lease:
        print(lease.url)
async def awaiting():
    async with AsyncClient() as client, client.lease("traced") as lease:
        print(lease.url)
with trace.get_tracer("test").start_as_current_span("the test"):
    blocking() if sys.argv[1] == "Client" else asyncio.run(awaiting())
"""


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as one:
        yield one


@pytest.fixture(scope="module")
def traced(postgres_18: PostgresServer, service_redis_url: str, receiver: Receiver) -> Iterator[Service]:
    running = start_service(
        [f"main={postgres_18.dsn}"],
        service_redis_url,
        settings={"tokens": f"boss:{TOKEN}:admin", "min_ready": 3, "log_format": "json"},
        environment={"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_BSP_SCHEDULE_DELAY": "100"},
    )
    with Client(running.url, TOKEN) as client:
        client.ensure_sql("traced", ["create table item (id int)"])
        client.release(client.acquire("traced").id)
    yield running
    assert running.stop() == 0
    assert "Traceback" not in running.log


def environment_of(service: Service, receiver: Receiver, name: str) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("FRESHDB_", "OTEL_"))}
    ours = {"FRESHDB_URL": service.url, "FRESHDB_TOKEN": TOKEN}
    otel = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_SERVICE_NAME": name}
    return {**inherited, **ours, **otel}


def ancestors(span: Span, spans: list[Span]) -> list[str]:
    """Return the names from the root to this span."""
    by_id = {one.id: one for one in spans}
    names = [span.name]
    while span.parent:
        span = by_id[span.parent]
        names.append(span.name)
    return names[::-1]


@pytest.mark.parametrize("client", ["Client", "AsyncClient"])
def test_lease_is_one_trace_through_client_service_redis_and_postgresql(
    traced: Service, receiver: Receiver, client: str
) -> None:
    name = f"suite-{client}"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, client],
        env=environment_of(traced, receiver, name),
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=True,
    )

    def whole(spans: list[Span]) -> bool:
        roots = [one for one in spans if one.name == "the test" and one.service == name]
        return bool(roots) and {"redis deadline_admit", "postgresql grant", "postgresql end", "reset"} <= {
            one.name for one in spans if one.trace == roots[0].trace
        }

    spans = receiver.until(whole)
    [root] = [one for one in spans if one.name == "the test" and one.service == name]
    trace = [one for one in spans if one.trace == root.trace]
    for call in ("redis deadline_admit", "postgresql grant"):
        [span] = [one for one in trace if one.name == call]
        assert ancestors(span, trace) == ["the test", "freshdb acquire", "POST", "POST /v1/leases", call]
        assert span.service == "freshdb-service"
    [server] = [one for one in trace if one.name == "POST /v1/leases"]
    assert server.attributes["http.response.status_code"] == 201
    assert server.attributes["freshdb.principal"] == "boss"
    [reset] = [one for one in trace if one.name == "reset"]
    assert ancestors(reset, trace)[-2:] == ["DELETE /v1/leases/{lease_id}", "reset"]
    assert any(one.parent == reset.id and one.name == "postgresql session" for one in trace)
    assert sorted(one.name for one in trace if one.service == name) == [
        "DELETE", "POST", "freshdb acquire", "freshdb release", "the test"
    ]  # fmt: skip
    password = urlsplit(done.stdout.strip()).password
    assert password
    assert password.encode() not in receiver.raw


def test_cli_sends_spans_and_an_error_span_has_no_message(
    traced: Service, receiver: Receiver, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "freshdb", "acquire", "no-such-template"],
        env=environment_of(traced, receiver, "terminal"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert done.returncode == 1
    spans = receiver.until(lambda spans: any(one.service == "terminal" for one in spans))
    [root] = [one for one in spans if one.service == "terminal" and not one.parent]
    assert root.failed
    assert root.attributes["error.type"] == "TemplateNotFound"
    assert b"there is no template" not in receiver.raw


def test_request_id_of_a_traced_request_is_its_trace_id(traced: Service, receiver: Receiver) -> None:
    trace = "0123456789abcdef0123456789abcdef"
    answer = plain_http.get(
        f"{traced.url}/v1/pools",
        headers={"traceparent": f"00-{trace}-0123456789abcdef-01", "Authorization": f"Bearer {TOKEN}"},
    )
    assert answer.headers["x-request-id"] == trace
    receiver.until(lambda spans: any(one.trace == trace for one in spans))
    assert any(json.loads(line).get("request") == trace for line in traced.log.splitlines())


def test_probes_heartbeats_and_loops_start_no_traces(traced: Service, receiver: Receiver) -> None:
    with Client(traced.url, TOKEN) as client:
        lease = client.acquire("traced")
        client.renew(lease.id)
        client.health()
        client.release(lease.id)
    spans = receiver.until(
        lambda spans: any(one.attributes.get("freshdb.lease") == lease.id for one in spans)
    )
    roots = {one.name for one in spans if not one.parent and one.service == "freshdb-service"}
    assert not {name for name in roots if name.startswith(("redis", "postgresql"))}
    assert not {name for name in roots if "renew" in name or name in {"GET /livez", "GET /readyz"}}


def test_no_secret_is_in_any_span(traced: Service, receiver: Receiver) -> None:
    with Client(traced.url, TOKEN) as client:
        lease = client.acquire("traced", isolation="schema")
        with psycopg.connect(lease.url, autocommit=True) as connection:
            connection.execute("create table extra ()")
        client.reset(lease.id)
        client.release(lease.id)
        made = client.create_token("of-a-trace")
    receiver.until(lambda spans: any(one.name == "POST /v1/tokens" for one in spans))
    assert lease.password
    for secret in (TOKEN, lease.password, made.secret or "", urlsplit(traced.control_dsn).password or ""):
        assert secret
        assert secret.encode() not in receiver.raw
    assert b"SCRAM" not in receiver.raw


def test_unavailable_collector_does_not_delay_requests(postgres_18: PostgresServer, redis_url: str) -> None:
    running = start_service(
        [postgres_18.dsn], redis_url, environment={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    )
    with Client(running.url, "") as client:
        client.ensure_sql("away", ["select 1"])
        client.release(client.acquire("away").id)
    assert running.stop() == 0


def test_opentelemetry_sdk_is_not_loaded_without_its_variables() -> None:
    assert from_environment({}) is UNTRACED
    assert from_environment({"OTEL_TRACES_EXPORTER": "none"}) is UNTRACED
    assert (
        from_environment({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"}) is UNTRACED
    )
    script = (
        "import sys, freshdb, freshdb.client, freshdb.tracing; assert freshdb.tracing.start({}) is None;"
        " print([one for one in sys.modules if one.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_unavailable_collector_does_not_delay_the_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    let_go, begun = threading.Event(), threading.Event()

    def hanging(_: TracerProvider) -> None:
        begun.set()
        let_go.wait()

    tracing = from_environment({"OTEL_TRACES_EXPORTER": "console"})
    monkeypatch.setattr(TracerProvider, "shutdown", hanging)
    monkeypatch.setattr("freshdb_service.observability.tracing._CLOSE_SECONDS", 0.01)
    tracing.close()
    assert begun.wait(LIMIT_SECONDS)
    let_go.set()
