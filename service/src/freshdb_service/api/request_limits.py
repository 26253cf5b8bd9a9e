"""Limits of requests: size and type of the body, and number of requests in progress.

A body that is too large is refused before it is read (by ``Content-Length``) or while it is read. FastAPI's
``max_body_size`` responds in plain text, and this module with a problem document like every other error.

While too many requests are in progress, further ones are refused at once and may retry, because otherwise all of them would
become late. Heartbeats are never refused, because a late one loses its lease. Releases and probes are not refused either.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Final, NamedTuple

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from freshdb_service.api.problems import problem
from freshdb_service.observability.metrics import Metrics

_JSON: Final = b"application/json"
_BUSY_SECONDS: Final = 1.0
_ACQUIRES: Final = frozenset({"/v1/leases", "/v1/leases/batch"})
_AT_ONCE: Final = 8
"""Acquires in progress at once. More would not be faster, because one process and one control plane handle them."""
_ENTRANCE_SECONDS: Final = 5.0
SLOT: Final = "freshdb.slot"
"""Key of the ASGI scope for the slot of an acquire."""
_ALWAYS: Final = frozenset({"/livez", "/readyz", "/metrics"})


class _Body(NamedTuple):
    """Declared length and type of a body."""

    length: int
    kind: bytes


class BodyLimit:
    """ASGI middleware that refuses bodies larger than ``most`` bytes with 413, and bodies other than JSON with 415."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most
        self._sentence = (
            f"the body is larger than {most} bytes (max_body_bytes); split it into several requests"
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, and count the bytes of its body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _declared(scope)
        if body is None:
            await self._app(scope, receive, send)
            return
        if body.length > self._most:
            refusal = problem("payload_too_large", self._sentence)
            refusal.headers["Connection"] = "close"
            await refusal(scope, receive, send)
            return
        if body.kind.partition(b";")[0].strip().lower() != _JSON:
            kind = body.kind.decode("latin-1")[:100] or "missing"
            sentence = f"the Content-Type must be application/json, and it is {kind}"
            await problem("unsupported_media_type", sentence)(scope, receive, send)
            return
        got = 0

        async def counted() -> Message:
            nonlocal got
            message = await receive()
            if message["type"] == "http.request":
                got += len(message.get("body", b""))
                if got > self._most:
                    raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, self._sentence)
            return message

        await self._app(scope, counted, send)


def _declared(scope: Scope) -> _Body | None:
    length, kind, chunked = 0, b"", False
    for name, value in scope["headers"]:
        if name == b"content-length":
            length = int(value)  # the HTTP parser has checked that it is a number
        elif name == b"content-type":
            kind = value
        elif name == b"transfer-encoding":
            chunked = True
    return _Body(length, kind) if length or chunked else None


class RequestLimit:
    """ASGI middleware that allows ``most`` requests in progress, and refuses further ones with 503."""

    def __init__(self, app: ASGIApp, most: int, metrics: Metrics) -> None:
        self._app = app
        self._most = most
        self._metrics = metrics
        self._in_progress = 0
        metrics.requests_in_progress.set_function(lambda: self._in_progress)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle or refuse one request."""
        if self._in_progress >= self._most and scope["type"] == "http" and not _urgent(scope):
            self._metrics.refusals.labels("backend_unavailable").inc()
            refusal = problem(
                "backend_unavailable",
                f"{self._most} requests are in progress (max_requests={self._most}); retry later",
                retry_after_seconds=_BUSY_SECONDS,
            )
            await refusal(scope, receive, send)
            return
        self._in_progress += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._in_progress -= 1


class AcquireSlot:
    """Slot of an acquire in progress."""

    def __init__(self, slots: asyncio.Semaphore) -> None:
        self._slots: asyncio.Semaphore | None = slots

    def release(self) -> None:
        """Free the slot, because the acquire has its response or waits in a queue."""
        slots, self._slots = self._slots, None
        if slots is not None:
            slots.release()


class AcquireLimit:
    """ASGI middleware that limits the acquires in progress, so that a thousand of them do not delay other requests.

    The event loop runs one small step of each request after the other. With a thousand acquires in progress, a heartbeat
    would wait for a thousand steps before each of its own. So further acquires wait here before their first step. An acquire
    that waits in the queue of a pool frees its slot.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, after waiting for a slot if it is an acquire."""
        if scope["type"] != "http" or scope["path"] not in _ACQUIRES or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        if not await self._entered():
            self._metrics.refusals.labels("backend_unavailable").inc()
            sentence = "too many acquires are in progress; retry later"
            await problem("backend_unavailable", sentence, retry_after_seconds=_BUSY_SECONDS)(
                scope, receive, send
            )
            return
        slot = scope[SLOT] = AcquireSlot(self._slots)
        try:
            await self._app(scope, receive, send)
        finally:
            slot.release()

    async def _entered(self) -> bool:
        if not self._slots.locked():
            return await self._slots.acquire()
        try:
            async with asyncio.timeout(_ENTRANCE_SECONDS):
                return await self._slots.acquire()
        except TimeoutError:
            return False


def _urgent(scope: Scope) -> bool:
    path: str = scope["path"]
    return path in _ALWAYS or (
        path.startswith(("/v1/leases/", "/v1/templates/"))
        and (scope["method"] == "DELETE" or path.endswith("/renew"))
    )
