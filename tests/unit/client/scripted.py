"""A real HTTP server with a script: it answers each request with the next reply, and records the requests."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.limits import LIMIT_SECONDS

TEMPLATE = "11111111-1111-4111-8111-111111111111"
LEASE = "22222222-2222-4222-8222-222222222222"
PASSWORD = "s3cr3t:/@"


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: object


@dataclass(frozen=True)
class Reply:
    """One answer. With `hang_up`, the server reads the request and closes the connection instead."""

    status: int = 200
    body: object = None
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    hang_up: bool = False


Step = Reply | Callable[[Asked], Reply]


class Script:
    """The next replies. The last one answers all further requests."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: list[Asked] = []
        self.arrived = threading.Condition()
        self._steps: list[Step] = []

    def play(self, *steps: Step) -> None:
        self._steps += steps

    def answer(self, asked: Asked) -> Reply:
        with self.arrived:
            self.asked.append(asked)
            step = self._steps.pop(0) if len(self._steps) > 1 else self._steps[0]
            self.arrived.notify_all()
        return step if isinstance(step, Reply) else step(asked)

    def wait_for(self, count: int, seconds: float = LIMIT_SECONDS) -> None:
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.asked) >= count, seconds), self.asked


@contextmanager
def scripted_service() -> Iterator[Script]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            content = self.rfile.read(length)
            asked = Asked(
                self.command,
                self.path,
                {key.lower(): value for key, value in self.headers.items()},
                json.loads(content) if content else None,
            )
            reply = script.answer(asked)
            if reply.hang_up:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            body = reply.body.encode() if isinstance(reply.body, str) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            self.send_header("content-type", reply.content_type)
            self.send_header("content-length", str(len(body)))
            for key, value in reply.headers.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PATCH = do_DELETE = _handle  # noqa: N815 - the names that http.server calls

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    script = Script(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def problem(
    status: int, code: str, detail: str = "no", *, retry_after: float | None = None, **extra: object
) -> Reply:
    headers = {} if retry_after is None else {"Retry-After": f"{retry_after:g}"}
    body = {"type": "about:blank", "title": code, "status": status, "detail": detail, "code": code, **extra}
    return Reply(status, body, headers, "application/problem+json")


def lease_body(**changes: object) -> dict[str, object]:
    return {
        "id": LEASE,
        "state": "active",
        "template": "shop@abc",
        "template_id": TEMPLATE,
        "pool_id": TEMPLATE,
        "database_id": TEMPLATE,
        "isolation": "database",
        "server": "one",
        "host": "db.example",
        "port": 5432,
        "database": "freshdb_1",
        "schema": None,
        "user": "u_1",
        "password": PASSWORD,
        "url": "postgresql://…",
        "generation": 3,
        "holder": {"name": "me"},
        "labels": {},
        "ttl_seconds": 300.0,
        "granted_at": "2026-01-01T00:00:00Z",
        "expires_at": "2026-01-01T00:05:00Z",
        "max_expires_at": "2026-01-02T00:00:00Z",
        "ended_at": None,
        "something_new": {"a": 1},
        **changes,
    }


def granted(**changes: object) -> Reply:
    return Reply(201, lease_body(**changes))


def renewed(ttl_seconds: float = 300.0) -> Reply:
    return Reply(
        200,
        {
            "id": LEASE,
            "ttl_seconds": ttl_seconds,
            "expires_at": "2026-01-01T00:05:00Z",
            "max_expires_at": "2026-01-02T00:00:00Z",
        },
    )


def released() -> Reply:
    return Reply(200, lease_body(state="released", password=None, url=None))


def template_body(state: str = "ready", **changes: object) -> dict[str, object]:
    return {
        "id": TEMPLATE,
        "name": "shop",
        "fingerprint": "abc",
        "state": state,
        "extensions": [],
        "size_bytes": 1,
        "error": None,
        "created_at": "2026-01-01T00:00:00Z",
        "ready_at": None,
        "last_used_at": None,
        "build_deadline_at": None,
        "server": "one",
        **changes,
    }


def build_body() -> dict[str, object]:
    return {
        "url": "postgresql://…",
        "host": "db.example",
        "port": 5432,
        "database": "b_1",
        "user": "b",
        "password": PASSWORD,
        "deadline_at": "2026-01-01T00:05:00Z",
        "token": "t0k3n",
        "renew_seconds": 20.0,
    }


def methods(asked: Iterable[Asked]) -> list[str]:
    return [f"{one.method} {one.path}" for one in asked]
