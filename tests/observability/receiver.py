"""A minimal OTLP/HTTP receiver, which stores the received spans."""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from tests.limits import LIMIT_SECONDS


@dataclass(frozen=True, slots=True)
class Span:
    """A span. Its ids are hexadecimal."""

    name: str
    service: str
    trace: str
    id: str
    parent: str
    kind: int
    failed: bool
    attributes: dict[str, object]


@dataclass(slots=True)
class Receiver:
    """The received spans."""

    url: str
    spans: list[Span] = field(default_factory=list)
    raw: bytes = b""

    def until(self, enough: Callable[[list[Span]], bool], seconds: float = LIMIT_SECONDS) -> list[Span]:
        """Wait for spans."""
        end = time.monotonic() + seconds
        while not enough(self.spans):
            assert time.monotonic() < end, [(one.service, one.name) for one in self.spans]
            time.sleep(0.05)
        return list(self.spans)


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Receive during the block."""
    lock = Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            with lock:
                receiver.raw += body
                receiver.spans += _spans(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver = Receiver(f"http://127.0.0.1:{server.server_address[1]}")
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _spans(request: ExportTraceServiceRequest) -> Iterator[Span]:
    for resource in request.resource_spans:
        service = str(_attributes(resource.resource.attributes)["service.name"])
        for scope in resource.scope_spans:
            for one in scope.spans:
                yield Span(
                    one.name,
                    service,
                    one.trace_id.hex(),
                    one.span_id.hex(),
                    one.parent_span_id.hex(),
                    one.kind,
                    one.status.code == 2,
                    _attributes(one.attributes),
                )


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, object]:
    return {one.key: getattr(one.value, str(one.value.WhichOneof("value"))) for one in pairs}
