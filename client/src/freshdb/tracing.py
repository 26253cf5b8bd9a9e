"""OpenTelemetry traces of a client: one span for each operation, and one for each of its requests.

If the program has imported ``opentelemetry.trace``, spans go to the provider that it has set. Requests then have a
``traceparent`` header, so that the service's spans join the trace. Without this import, nothing is loaded or done.
The command line sets a provider itself (:func:`start`) if OpenTelemetry's own variables ask for one.

The attributes are the method, the path and the status. They never contain a header, a body, or the message of an error.
"""

from __future__ import annotations

import atexit
import os
import sys
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Event, Thread
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from freshdb.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, MutableMapping

    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, SpanKind

    from freshdb.messages import Send

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_NAME: Final = "freshdb"
_ERROR: Final = 400
_CLOSE_SECONDS: Final = 2.0
_OPERATIONS: Final = {"grant": "acquire", "resume": "renew", "release_only": "release"}
"""Names of spans for flows that are not methods of the client."""


class ClientSpan:
    """The span of a request that was sent."""

    def record_status(self, status: int) -> None:
        """Record the status of the answer."""


class _SentInSpan(ClientSpan):
    def __init__(self, span: Span) -> None:
        self._span = span

    def record_status(self, status: int) -> None:
        self._span.set_attribute("http.response.status_code", status)
        if status >= _ERROR:
            _failed(self._span, str(status))


_NOTHING: Final = nullcontext(ClientSpan())


def operation_span(flow: object) -> AbstractContextManager[object]:
    """Return the span of a flow, named after its function."""
    if "opentelemetry.trace" not in sys.modules:
        return _NOTHING
    name = getattr(flow, "__name__", "operation")
    return _span(f"freshdb {_OPERATIONS.get(name, name)}", "INTERNAL", {})


def request_span(step: Send, headers: MutableMapping[str, str]) -> AbstractContextManager[ClientSpan]:
    """Return the span of a request, and add the trace to its headers."""
    if "opentelemetry.trace" not in sys.modules:
        return _NOTHING
    return _request_span(step, headers)


@contextmanager
def _request_span(step: Send, headers: MutableMapping[str, str]) -> Iterator[ClientSpan]:
    from opentelemetry import propagate  # noqa: PLC0415 - the program has loaded it already

    path = step.call.path.partition("?")[0]
    where = urlsplit(step.base)
    attributes: dict[str, str | int] = {"http.request.method": step.call.method, "url.path": path}
    attributes |= {"server.address": where.hostname or "", "server.port": where.port or 0}
    with _span(step.call.method, "CLIENT", attributes) as span:
        propagate.inject(headers)
        yield _SentInSpan(span)


@contextmanager
def _span(name: str, kind: str, attributes: Mapping[str, str | int]) -> Iterator[Span]:
    from opentelemetry import trace  # noqa: PLC0415 - as above

    kinds: type[SpanKind] = trace.SpanKind
    with trace.get_tracer(_NAME, __version__).start_as_current_span(
        name, kind=kinds[kind], attributes=attributes, record_exception=False, set_status_on_exception=False
    ) as span:
        try:
            yield span
        except BaseException as error:
            _failed(span, type(error).__name__)
            raise


def _failed(span: Span, kind: str) -> None:
    from opentelemetry.trace import StatusCode  # noqa: PLC0415 - as above

    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR)


def start(environment: Mapping[str, str] = os.environ) -> str | None:
    """Send this process's spans to the endpoint of OpenTelemetry's variables. Without these variables, do nothing.

    Returns:
        the problem, if the variables ask for traces that cannot be sent.
    """
    exporter = environment.get(
        "OTEL_TRACES_EXPORTER", "otlp" if any(environment.get(one) for one in _ENDPOINTS) else "none"
    )
    if exporter != "otlp" or environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    try:
        from opentelemetry import trace  # noqa: PLC0415 - an extra, and slow to load
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ModuleNotFoundError as error:
        return f"no traces are sent, although OTEL_… variables ask for them: {error}; pip install 'freshdb[otel]'"
    named = {} if "OTEL_SERVICE_NAME" in environment else {"service.name": _NAME}
    resource = Resource.create({"service.version": __version__, **named})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    ending = Event()
    flusher = Thread(target=_shut_down, args=(provider, ending), name="flush spans", daemon=True)
    flusher.start()  # not at exit: Python 3.12 cannot start a thread then
    atexit.register(_flush, ending, flusher)
    return None


def _shut_down(provider: TracerProvider, ending: Event) -> None:
    ending.wait()
    provider.shutdown()


def _flush(ending: Event, flusher: Thread) -> None:
    """Send the last spans, with a timeout: an unavailable collector must not delay the prompt."""
    ending.set()
    flusher.join(_CLOSE_SECONDS)
