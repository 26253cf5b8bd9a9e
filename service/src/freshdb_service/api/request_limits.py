"""What a request may be: no larger than so much, in JSON, and one of not more than so many at once.

Bodies that are too large are refused before they are read (as declared) or while they are (as sent). FastAPI's own
``max_body_size`` answers in plain text; ours is a problem document like every other error.

Requests that come while too many are in progress are refused at once, to come again, instead of all becoming late together.
Heartbeats are never refused for this, because a late one is a lost lease; nor is what gives something back, nor what looks
after the service.
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
"""More at once are not done any sooner: one process works on them, and one control plane."""
_ENTRANCE_SECONDS: Final = 5.0
SLOT: Final = "freshdb.slot"
"""Where an acquire's scope holds its slot."""
_ALWAYS: Final = frozenset({"/livez", "/readyz", "/metrics"})


class _Body(NamedTuple):
    """What a request says of its body."""

    length: int
    kind: bytes


class BodyLimit:
    """ASGI middleware that refuses bodies over ``most`` bytes with 413, and other bodies than JSON with 415."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most
        self._sentence = f"a body may have at most {most} bytes; send less, or in parts"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, counting what comes in."""
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
            kind = body.kind.decode("latin-1")[:100] or "without a type"
            sentence = f"a body is JSON (Content-Type: application/json), not {kind}"
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
            length = int(value)  # whoever parsed the request has seen that it is a number
        elif name == b"content-type":
            kind = value
        elif name == b"transfer-encoding":
            chunked = True
    return _Body(length, kind) if length or chunked else None


class RequestLimit:
    """ASGI middleware that lets ``most`` requests be in progress, and refuses more with 503."""

    def __init__(self, app: ASGIApp, most: int, metrics: Metrics) -> None:
        self._app = app
        self._most = most
        self._metrics = metrics
        self._in_progress = 0
        metrics.requests_in_progress.set_function(lambda: self._in_progress)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if self._in_progress >= self._most and scope["type"] == "http" and not _urgent(scope):
            self._metrics.refusals.labels("backend_unavailable").inc()
            refusal = problem(
                "backend_unavailable",
                f"{self._most} requests are in progress, as many as may be (max_requests); ask again",
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
    """The right of one acquire to be worked on."""

    def __init__(self, slots: asyncio.Semaphore) -> None:
        self._slots: asyncio.Semaphore | None = slots

    def leave(self) -> None:
        """Let the next one in: this one is answered, or only waits for now."""
        slots, self._slots = self._slots, None
        if slots is not None:
            slots.release()


class AcquireLimit:
    """ASGI middleware that lets few acquires be worked on at once, so that a thousand of them keep nobody else waiting.

    What is done for one request is done in many small steps, in turn with those of all others. With a thousand acquires
    under way a heartbeat would wait for a thousand steps at each of its own; so the others wait here, before anything is
    done for them. Whoever stands in a pool's queue lets the next one in.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on when it is its turn."""
        if scope["type"] != "http" or scope["path"] not in _ACQUIRES or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        if not await self._entered():
            self._metrics.refusals.labels("backend_unavailable").inc()
            sentence = "too many acquires came before this one; ask again"
            await problem("backend_unavailable", sentence, retry_after_seconds=_BUSY_SECONDS)(
                scope, receive, send
            )
            return
        slot = scope[SLOT] = AcquireSlot(self._slots)
        try:
            await self._app(scope, receive, send)
        finally:
            slot.leave()

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
