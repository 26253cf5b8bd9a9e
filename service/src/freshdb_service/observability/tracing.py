"""OpenTelemetry traces of requests, work on databases, and calls to PostgreSQL and Redis.

The spans are created manually. They are few, have fixed names, and contain no statements, parameters or error messages, so
that no password gets into one. OpenTelemetry's own variables configure the export (``OTEL_EXPORTER_OTLP_ENDPOINT``, …).
Without them, or without the extra ``otel``, OpenTelemetry is not loaded and ``UNTRACED`` does nothing.

A call gets a span only within another span, because the loops query the control plane every second.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Thread
from typing import TYPE_CHECKING, Final, Protocol

from freshdb_service import __version__
from freshdb_service.observability.instrumentation import Instrument, no_instrument

if TYPE_CHECKING:
    from opentelemetry.context import Context as OtelContext
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, SpanKind, StatusCode

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_NAME: Final = "freshdb-service"
_SERVER_ERROR: Final = 500
_CLOSE_SECONDS: Final = 2.0
_log = logging.getLogger(__name__)

Attributes = Mapping[str, str | int | float | bool]
Headers = Iterable[tuple[bytes, bytes]]


class RequestSpan(Protocol):
    """The span of a request."""

    @property
    def trace_id(self) -> str | None:
        """The id of the trace (32 hexadecimal digits), or ``None`` without tracing."""

    def answered(self, route: str, status: int, facts: Mapping[str, object]) -> None:
        """Set the status and the context fields. The route is the method and the path template."""


class Tracing(Protocol):
    """Creates spans."""

    def request(self, method: str, headers: Headers) -> AbstractContextManager[RequestSpan]:
        """Create the span of one request, in the trace that its headers name."""

    def work(self, name: str, attributes: Attributes) -> AbstractContextManager[object]:
        """Create the span of some work."""

    def calls(self, system: str, server: str) -> Instrument:
        """Create the instrumentation of calls to one backend."""

    def close(self) -> None:
        """Export the remaining spans."""


class _NoSpan:
    trace_id = None

    def answered(self, route: str, status: int, facts: Mapping[str, object]) -> None:
        pass


class _Untraced:
    """Creates no spans."""

    def __init__(self) -> None:
        self._nothing = nullcontext(_NoSpan())

    def request(self, _method: str, _headers: Headers) -> AbstractContextManager[RequestSpan]:
        return self._nothing

    def work(self, _name: str, _attributes: Attributes) -> AbstractContextManager[object]:
        return self._nothing

    def calls(self, _system: str, _server: str) -> Instrument:
        return no_instrument

    def close(self) -> None:
        pass


UNTRACED: Final[Tracing] = _Untraced()


def from_environment(environment: Mapping[str, str] = os.environ) -> Tracing:
    """Create the tracing that OpenTelemetry's variables configure, or return ``UNTRACED`` without them or the package."""
    exporter = environment.get(
        "OTEL_TRACES_EXPORTER", "otlp" if any(map(environment.get, _ENDPOINTS)) else "none"
    )
    if exporter == "none" or environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return UNTRACED
    try:
        return _Traced(_provider(exporter))
    except ModuleNotFoundError as error:
        _log.warning(
            "tracing is configured (OTEL_…) but not installed: %s; run pip install 'freshdb-service[otel]'",
            error,
        )
        return UNTRACED


def _provider(exporter: str) -> TracerProvider:
    # Imported only for tracing, because this takes longer than a warm start.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import (  # noqa: PLC0415
        BatchSpanProcessor,
        ConsoleSpanExporter,
        SimpleSpanProcessor,
    )

    # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES override these values.
    resource = Resource.create(
        {"service.version": __version__} | _unless("OTEL_SERVICE_NAME", "service.name", _NAME)
    )
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)  # `close` does
    if exporter == "console":
        provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))
    else:
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def _unless(variable: str, key: str, value: str) -> dict[str, str]:
    return {} if variable in os.environ else {key: value}


class _Traced:
    """Creates spans with OpenTelemetry."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry import propagate, trace  # noqa: PLC0415 - as above

        self._provider = provider
        self._tracer = provider.get_tracer(_NAME, __version__)
        self._extract = propagate.extract
        self._current = trace.get_current_span
        self._kinds = trace.SpanKind
        self._error = trace.StatusCode.ERROR

    @contextmanager
    def _span(
        self, name: str, kind: SpanKind, attributes: Attributes, context: OtelContext | None = None
    ) -> Iterator[Span]:
        with self._tracer.start_as_current_span(
            name,
            context,
            kind,
            attributes,
            record_exception=False,  # error messages may contain secrets of clients
            set_status_on_exception=False,
        ) as span:
            try:
                yield span
            except BaseException as error:
                span.set_attribute("error.type", type(error).__name__)
                span.set_status(self._error)
                raise

    @contextmanager
    def request(self, method: str, headers: Headers) -> Iterator[RequestSpan]:
        context = self._extract({name.decode("latin-1"): value.decode("latin-1") for name, value in headers})
        with self._span(method, self._kinds.SERVER, {"http.request.method": method}, context) as span:
            yield _Answered(span, self._error)

    def work(self, name: str, attributes: Attributes) -> AbstractContextManager[object]:
        return self._span(name, self._kinds.INTERNAL, attributes)

    def calls(self, system: str, server: str) -> Instrument:
        def call(what: str) -> AbstractContextManager[object]:
            if not self._current().get_span_context().is_valid:
                return no_instrument(what)
            attributes = {"db.system.name": system, "db.operation.name": what, "freshdb.server": server}
            return self._span(f"{system} {what}", self._kinds.CLIENT, attributes)

        return call

    def close(self) -> None:
        # If the collector is unavailable, the exporter would retry for longer than the service may take to stop.
        last = Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        last.start()
        last.join(_CLOSE_SECONDS)


class _Answered:
    def __init__(self, span: Span, error: StatusCode) -> None:
        self._span = span
        self._error = error

    @property
    def trace_id(self) -> str | None:
        return f"{self._span.get_span_context().trace_id:032x}"

    def answered(self, route: str, status: int, facts: Mapping[str, object]) -> None:
        span = self._span
        span.update_name(route)
        span.set_attributes({"http.route": route, "http.response.status_code": status})
        span.set_attributes({f"freshdb.{name}": str(value) for name, value in facts.items()})
        if status >= _SERVER_ERROR:
            span.set_status(self._error)
