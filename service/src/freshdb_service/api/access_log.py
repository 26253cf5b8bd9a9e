"""Middleware that gives every request an id, a log line, a span and its metrics.

The id is the caller's ``X-Request-Id``, else the id of its trace, else a new one. The response has it as ``X-Request-Id``,
and all log lines of the request have it. Probes and heartbeats are too many for this: they are logged at level debug, and
they get a span only if the caller sends a trace.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from time import perf_counter
from typing import Final

from prometheus_client import Counter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from freshdb_service.observability.logs import ACCESS, fields, log_context
from freshdb_service.observability.metrics import Metrics
from freshdb_service.observability.tracing import UNTRACED, Tracing

_USABLE: Final = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_PROBES: Final = frozenset({"/livez", "/readyz", "/metrics"})
_VERSION: Final = "/v1"
_NO_ROUTE: Final = "other"
_ABORTED: Final = 499
"""Status of requests whose client disconnected before the response, as in nginx."""
_INTERNAL_ERROR: Final = 500
_NOT_ALLOWED: Final = 405
_SHOWN_CHARACTERS: Final = 200
_log = logging.getLogger(ACCESS)


class AccessLog:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, metrics: Metrics, tracing: Tracing) -> None:
        self._app = app
        self._metrics = metrics
        self._tracing = tracing
        self._counters: dict[tuple[str, int], Counter] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = perf_counter(), _ABORTED
        given, traced = _headers(scope["headers"])
        quiet = scope["path"] in _PROBES or scope["path"].endswith("/renew")
        tracing = UNTRACED if quiet and not traced else self._tracing
        with tracing.request(scope["method"], scope["headers"]) as span, log_context() as facts:
            request = given or span.trace_id or os.urandom(8).hex()
            facts["request"] = request

            async def answer(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                    message["headers"] = [*message.get("headers", ()), (b"x-request-id", request.encode())]
                await send(message)

            try:
                await self._app(scope, receive, answer)
            except Exception:
                status = _INTERNAL_ERROR
                raise
            finally:
                route = _route(scope, status)
                self._count(route, status)
                span.answered(route, status, facts)
                self._log_request(scope, status, perf_counter() - began, quiet=quiet)

    def _count(self, route: str, status: int) -> None:
        counter = self._counters.get((route, status))
        if counter is None:
            counter = self._counters[route, status] = self._metrics.responses.labels(route, status)
        counter.inc()

    def _log_request(self, scope: Scope, status: int, seconds: float, *, quiet: bool) -> None:
        level = logging.DEBUG if quiet else logging.INFO
        if _log.isEnabledFor(level):
            method, path = scope["method"], scope["path"][:_SHOWN_CHARACTERS]
            extra = fields(method=method, path=path, status=status, seconds=round(seconds, 6))
            # Like `_log.log`, but without its search of the stack for the caller.
            words = (method, path, status)
            _log.handle(_log.makeRecord(ACCESS, level, __file__, 0, "%s %s: %d", words, None, extra=extra))


def _headers(headers: Iterable[tuple[bytes, bytes]]) -> tuple[str | None, bool]:
    """Return the caller's request id, if it is usable, and true if the request belongs to a trace."""
    given, traced = None, False
    for name, value in headers:
        if name == b"x-request-id" and _USABLE.fullmatch(value):
            given = value.decode()
        elif name == b"traceparent":
            traced = True
    return given, traced


def _route(scope: Scope, status: int) -> str:
    """Return the method and the path template of the matched route, so that the metric has few label values."""
    path: str | None = getattr(scope.get("route"), "path_format", None)
    if path is None or status == _NOT_ALLOWED:
        return _NO_ROUTE
    if scope["path"].startswith(f"{_VERSION}/") and not path.startswith(_VERSION):
        path = _VERSION + path  # a route knows only the path within its router
    return f"{scope['method']} {path}"
