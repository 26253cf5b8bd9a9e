"""OpenTelemetry traces of what a client does: one span for an operation, and one for each request that it takes.

For programs that use OpenTelemetry: where ``opentelemetry.trace`` was imported, spans go to the provider that the program
has set, and requests name the trace that they belong to (``traceparent``), so that the service's spans join it. Where it was
not, nothing is loaded, and nothing is done. The command line has no program around it, and sets a provider itself
(:func:`start`) when OpenTelemetry's own variables ask for one.

Attributes name the method, the route's path and the status: never a header, a body, or the message of an error.
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
_OPERATIONS: Final = {"grant": "acquire", "take_up": "renew", "give_back": "release"}
"""What those flows are for that have no method of their own."""


class ClientSpan:
    """A request on its way."""

    def answered(self, status: int) -> None:
        """Note the status of its answer."""


class _SentInSpan(ClientSpan):
    def __init__(self, span: Span) -> None:
        self._span = span

    def answered(self, status: int) -> None:
        self._span.set_attribute("http.response.status_code", status)
        if status >= _ERROR:
            _failed(self._span, str(status))


_NOTHING: Final = nullcontext(ClientSpan())


def operation(flow: object) -> AbstractContextManager[object]:
    """Surround the carrying out of a flow, which is named as its function is."""
    if "opentelemetry.trace" not in sys.modules:
        return _NOTHING
    name = getattr(flow, "__name__", "operation")
    return _span(f"freshdb {_OPERATIONS.get(name, name)}", "INTERNAL", {})


def sending(step: Send, headers: MutableMapping[str, str]) -> AbstractContextManager[ClientSpan]:
    """Surround the sending of a request, and say in its headers which trace it belongs to."""
    if "opentelemetry.trace" not in sys.modules:
        return _NOTHING
    return _sending(step, headers)


@contextmanager
def _sending(step: Send, headers: MutableMapping[str, str]) -> Iterator[ClientSpan]:
    from opentelemetry import propagate  # noqa: PLC0415 - there, because the program has loaded it

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
    """Send this process's spans where OpenTelemetry's variables say, until it ends; nothing happens without them.

    Returns:
        why that cannot be done, if it cannot.
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
        return f"no traces, although OTEL_… asks for them: {error}; pip install 'freshdb[otel]'"
    named = {} if "OTEL_SERVICE_NAME" in environment else {"service.name": _NAME}
    resource = Resource.create({"service.version": __version__, **named})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    ending = Event()
    last = Thread(target=_shut_down, args=(provider, ending), name="last spans", daemon=True)
    last.start()  # not at the end: Python 3.12 starts no thread while it exits
    atexit.register(_send_the_last, ending, last)
    return None


def _shut_down(provider: TracerProvider, ending: Event) -> None:
    ending.wait()
    provider.shutdown()


def _send_the_last(ending: Event, last: Thread) -> None:
    """Send what is left, within a limit: an unavailable collector would be tried for longer than a prompt should wait."""
    ending.set()
    last.join(_CLOSE_SECONDS)
