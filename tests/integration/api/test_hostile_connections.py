"""Connections that send too much, too slowly or nothing, or never read, are closed. Other clients are answered."""

from __future__ import annotations

import contextlib
import json
import resource
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import psycopg
import pytest
import redis

from tests import plain_http
from tests.limits import LIMIT_SECONDS
from tests.servers import PostgresServer
from tests.services import Service, start_service

pytestmark = pytest.mark.xdist_group("api-connections")  # one service for the tests of this module

REQUEST_SECONDS = 1.0
READER_SECONDS = 1.0
MAX_CONNECTIONS = 60
MAX_STREAMS = 25
WAITERS = 2
MANY_IDLE = 5_000
NARROW = {
    "min_ready": 1,
    "max_size": 1,
    "request_seconds": REQUEST_SECONDS,
    "reader_seconds": READER_SECONDS,
    "max_connections": MAX_CONNECTIONS,
    "max_requests": MAX_STREAMS + WAITERS,
    "max_waiters": WAITERS,
    "max_event_streams": MAX_STREAMS,
}


@pytest.fixture(scope="module")
def strict(postgres_18: PostgresServer, service_redis_url: str) -> Iterator[Service]:
    """A service with narrow limits."""
    running = start_service([postgres_18.dsn], service_redis_url, settings=NARROW)
    yield running
    assert running.stop() == 0


@pytest.fixture
def crowded(postgres_18: PostgresServer, service_redis_url: str) -> Iterator[Service]:
    """A service with narrow limits and long timeouts."""
    settings = {**NARROW, "request_seconds": 2 * LIMIT_SECONDS}
    running = start_service([postgres_18.dsn], service_redis_url, settings=settings)
    yield running
    assert running.stop() == 0


def connect(service: Service, *, receive_bytes: int | None = None) -> socket.socket:
    where = urlsplit(service.url)
    connection = socket.socket()
    if receive_bytes is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.settimeout(LIMIT_SECONDS)
    connection.connect((where.hostname, where.port))
    return connection


def everything(connection: socket.socket) -> bytes:
    """Read until the other side closes the connection."""
    said = b""
    with contextlib.suppress(ConnectionError):
        while some := connection.recv(65536):
            said += some
    return said


def problem(said: bytes) -> tuple[int, dict[str, Any]]:
    head, _, body = said.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head.lower()
    assert b"connection: close" in head.lower()
    document: dict[str, Any] = json.loads(body)
    assert document["status"] == int(head[9:12])
    return document["status"], document


def drip(connection: socket.socket, one: bytes = b"x") -> bytes:
    """Send a little again and again until the other side closes the connection. Return its answer."""
    until = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < until:
        readable, _, _ = select.select([connection], [], [], 0.05)
        if readable:
            return everything(connection)
        with contextlib.suppress(ConnectionError):
            connection.send(one)
    raise AssertionError("it was never cut")


@pytest.mark.parametrize(
    "head",
    [
        b"x-large: " + b"x" * 40_000 + b"\r\n\r\n",
        b"".join(b"x-%d: many\r\n" % number for number in range(4_000)) + b"\r\n",
        b"x-endless: " + b"x" * 40_000,
        b"x" * 40_000,
    ],
    ids=["one large header", "many headers", "a value without an end", "a name without an end"],
)
def test_too_large_headers_are_refused(service: Service, head: bytes) -> None:
    with connect(service) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\n" + head)
        status, document = problem(everything(connection))
    assert (status, document["code"]) == (431, "headers_too_large")
    assert "32768 bytes" in document["detail"]


def test_too_long_path_is_refused(service: Service) -> None:
    with connect(service) as connection:
        connection.sendall(b"GET /v1/leases/" + b"x" * 10_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n")
        status, document = problem(everything(connection))
    assert (status, document["code"]) == (414, "uri_too_long")


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET /livez HTTP/9.9\r\n\r\n",
        b"CONNECT example.org:443 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nhost: x\r\nbad\x00name: 1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/leases HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n",
    ],
)
def test_garbage_is_refused_with_problem(service: Service, garbage: bytes) -> None:
    with connect(service) as connection:
        connection.sendall(garbage)
        status, document = problem(everything(connection))
    assert (status, document["code"]) == (400, "malformed_request")


@pytest.mark.parametrize(
    "start",
    [
        b"GET /livez HTTP/1.1\r\nhost: x\r\nx-slow: ",
        b"GET /li",
        b"POST /v1/leases HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 5000\r\n\r\n{",
        (
            b"POST /v1/leases HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"transfer-encoding: chunked\r\n\r\nfff\r\n{"
        ),
    ],
    ids=["in a header", "in the path", "in a body", "in a chunk"],
)
def test_slow_request_is_cut(strict: Service, start: bytes) -> None:
    with connect(strict) as connection:
        connection.sendall(start)
        status, document = problem(drip(connection))
    assert (status, document["code"]) == (408, "request_timeout")


def test_slow_second_request_of_a_connection_is_cut(strict: Service) -> None:
    with connect(strict) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        answer = b""
        while not answer.endswith(b"}"):
            answer += connection.recv(65536)
        connection.sendall(b"\r\n")  # an empty line does not extend the timeout
        status, document = problem(drip(connection, b"\r\n"))
        assert (status, document["code"]) == (408, "request_timeout")


def test_connection_without_request_is_closed(strict: Service) -> None:
    with connect(strict) as connection:
        assert everything(connection) == b""


def test_longest_idle_connection_is_closed_at_the_limit(crowded: Service) -> None:
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(connect(crowded)) for _ in range(MAX_CONNECTIONS)]
        asked = stack.enter_context(connect(crowded))
        asked.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        assert asked.recv(65536).startswith(b"HTTP/1.1 200")
        assert idle[0].recv(1) == b""
        idle[-1].sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        assert idle[-1].recv(65536).startswith(b"HTTP/1.1 200")


def test_requests_are_answered_during_thousands_of_idle_connections(service: Service) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    number = MANY_IDLE if hard == resource.RLIM_INFINITY else min(MANY_IDLE, hard - 1_000)
    try:
        with contextlib.ExitStack() as stack:
            for _ in range(number):
                stack.enter_context(connect(service))
            with httpx.Client(
                verify=plain_http.NO_CERTIFICATES, base_url=service.url, timeout=LIMIT_SECONDS
            ) as client:
                for _ in range(20):
                    assert client.get("/v1/leases").status_code == 200
            assert _callers(service) >= number
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_event_stream_without_reader_is_closed_and_costs_no_memory(strict: Service) -> None:
    process = psutil.Process(strict.process.pid)
    plain_http.get(f"{strict.url}/v1/events?follow=false&since=0")
    with redis.Redis.from_url(strict.redis_url) as connection:
        key = f"freshdb:{{{_installation(strict)}}}:events".encode()
        with connection.pipeline(transaction=False) as pipeline:
            for _ in range(10_000):
                pipeline.xadd(key, {"kind": "test.padding", "data": json.dumps({"padding": "x" * 2_000})})
            pipeline.execute()
    memory = process.memory_info().rss
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            reader = stack.enter_context(connect(strict, receive_bytes=4096))
            reader.sendall(b"GET /v1/events?since=0 HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert reader.recv(1, socket.MSG_PEEK) == b"H"
        most = 0

        def all_dropped() -> bool:
            nonlocal most
            most = max(most, process.memory_info().rss)
            assert plain_http.get(f"{strict.url}/livez").status_code == 200
            return _callers(strict) == 0

        _until(all_dropped)
        assert most - memory < 64 * 2**20  # of 20 times 20 MB


def test_event_streams_beyond_limit_are_refused(strict: Service) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(MAX_STREAMS):
            stream = stack.enter_context(connect(strict))
            stream.sendall(b"GET /v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert stream.recv(9) == b"HTTP/1.1 "
        answer = plain_http.get(f"{strict.url}/v1/events")
        assert (answer.status_code, answer.json()["code"]) == (429, "quota_exceeded")
        assert answer.headers["retry-after"]


def test_two_hundred_simultaneous_pages_are_served(service: Service) -> None:
    with (
        httpx.Client(
            verify=plain_http.NO_CERTIFICATES,
            base_url=service.url,
            limits=httpx.Limits(max_connections=200),
            timeout=LIMIT_SECONDS,
        ) as client,
        ThreadPoolExecutor(50) as threads,
    ):
        for page in ("/docs", "/openapi.json"):
            answers = list(threads.map(client.get, [page] * 200))
            assert {answer.status_code for answer in answers} == {200}
        assert client.get("/").headers["content-type"]


@pytest.fixture
def occupied(strict: Service) -> Iterator[tuple[httpx.Client, dict[str, Any]]]:
    """Lease the only database of a template."""
    with httpx.Client(
        verify=plain_http.NO_CERTIFICATES, base_url=strict.url, timeout=LIMIT_SECONDS
    ) as client:
        client.post("/v1/templates", json={"name": "narrow", "sql": ["select 1"]})
        lease = client.post("/v1/leases", json={"template": "narrow"}).json()
        yield client, lease
        client.delete(f"/v1/leases/{lease['id']}")


def _waiting(client: httpx.Client, pool_id: str) -> None:
    """Wait until the queue is full."""
    _until(lambda: client.get(f"/v1/pools/{pool_id}").json()["waiting"] >= WAITERS)


def _until(it_holds: Callable[[], bool]) -> None:
    until = time.monotonic() + LIMIT_SECONDS
    while not it_holds():
        assert time.monotonic() < until


def _callers(service: Service) -> int:
    """Return the number of client connections."""
    port = urlsplit(service.url).port
    return sum(
        one.status == psutil.CONN_ESTABLISHED and one.laddr.port == port
        for one in psutil.Process(service.process.pid).net_connections("tcp")
    )


def _wait_for_one(strict: Service, done: list[httpx.Response]) -> threading.Thread:
    def ask() -> None:
        body = {"template": "narrow", "wait_seconds": LIMIT_SECONDS}
        done.append(plain_http.post(f"{strict.url}/v1/leases", json=body, timeout=2 * LIMIT_SECONDS))

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


def _release_all(client: httpx.Client, threads: list[threading.Thread], done: list[httpx.Response]) -> None:
    """Release the leases that the waiters get until each has got one."""
    released: set[str] = set()
    while any(thread.is_alive() for thread in threads) or len(released) < len(threads):
        for answer in list(done):
            lease = answer.json()["id"]
            if lease not in released:
                released.add(lease)
                client.delete(f"/v1/leases/{lease}")
        time.sleep(0.01)


def test_caller_at_full_queue_is_refused_at_once(
    strict: Service, occupied: tuple[httpx.Client, dict[str, Any]]
) -> None:
    client, lease = occupied
    done: list[httpx.Response] = []
    threads = [_wait_for_one(strict, done) for _ in range(WAITERS)]
    _waiting(client, lease["pool_id"])
    refused = client.post("/v1/leases", json={"template": "narrow", "wait_seconds": LIMIT_SECONDS})
    assert (refused.status_code, refused.json()["code"]) == (503, "pool_exhausted")
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["queue_length"] == 2
    client.delete(f"/v1/leases/{lease['id']}")
    _release_all(client, threads, done)


def test_caller_keeps_its_place_in_a_full_queue(
    strict: Service, occupied: tuple[httpx.Client, dict[str, Any]]
) -> None:
    client, lease = occupied
    key = {"idempotency-key": "the one who came first"}
    short = {"template": "narrow", "wait_seconds": 0.2}
    first = client.post("/v1/leases", json=short, headers=key)
    assert (first.status_code, first.json()["queue_position"]) == (503, 1)
    done: list[httpx.Response] = []
    threads = [_wait_for_one(strict, done) for _ in range(WAITERS)]
    _waiting(client, lease["pool_id"])
    stranger = client.post("/v1/leases", json=short)
    assert (stranger.status_code, stranger.json()["queue_position"]) == (503, 0)  # it was not in the queue
    again = client.post("/v1/leases", json=short, headers=key)
    assert (again.status_code, again.json()["queue_position"]) == (503, 1)  # before later callers
    client.delete(f"/v1/leases/{lease['id']}")
    _release_all(client, threads, done)


def test_heartbeat_and_release_are_answered_at_max_requests(
    strict: Service, occupied: tuple[httpx.Client, dict[str, Any]]
) -> None:
    client, lease = occupied
    done: list[httpx.Response] = []
    threads = [_wait_for_one(strict, done) for _ in range(WAITERS)]
    _waiting(client, lease["pool_id"])
    with contextlib.ExitStack() as stack:
        for _ in range(MAX_STREAMS):
            stream = stack.enter_context(connect(strict))
            stream.sendall(b"GET /v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert stream.recv(9) == b"HTTP/1.1 "
        refused = client.get("/v1/leases")
        assert (refused.status_code, refused.json()["code"]) == (503, "backend_unavailable")
        assert refused.headers["retry-after"] == "1"
        assert client.post(f"/v1/leases/{lease['id']}/renew").status_code == 200
        assert client.get("/livez").status_code == 200
        assert client.delete(f"/v1/leases/{lease['id']}").status_code == 200
    _release_all(client, threads, done)


def test_tls_handshake_is_refused(service: Service) -> None:
    context = ssl.create_default_context()
    with connect(service) as connection, pytest.raises(ssl.SSLError):
        context.wrap_socket(connection, server_hostname="localhost")


def _installation(service: Service) -> str:
    with psycopg.connect(service.control_dsn) as control:
        row = control.execute("select id from installation").fetchone()
    assert row is not None
    return str(row[0])
