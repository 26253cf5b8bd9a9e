"""Limits of client connections: header size, receive timeout, write timeout, and number of connections.

uvicorn parses requests with httptools and has none of these limits. A header could be endless, a request could take an hour
to arrive, and a client that never reads would keep its response in memory. Here a header has a maximum size, a request has a
receive timeout, and a connection whose client stops reading is closed. Between requests a connection may idle for
``idle_connection_seconds``. When the maximum number of connections is open, the one that has been idle longest is closed, so
that idle connections cannot block other clients.

The cost per request is a few attributes. Each connection has one timer, which checks the deadline only when it fires.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, ClassVar, Final

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from freshdb_service.api.problems import problem, raw

ARRIVED: Final = "freshdb.arrived"
"""Key of the ASGI scope for the time at which the headers arrived (``perf_counter``)."""
_SLOWEST_BYTES_PER_SECOND: Final = 64 * 1024
"""Rate at which a body extends the timeout of ``request_seconds``."""
_LONGEST_TARGET_BYTES: Final = 8 * 1024


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The limits of all connections, and the idle connections, longest idle first."""

    max_connections: int
    max_header_bytes: int
    request_seconds: float
    reader_seconds: float
    waiting: dict[LimitedConnection, None] = field(default_factory=dict)


class _Refused(Exception):
    """Stops the parsing of a request."""


class LimitedConnection(HttpToolsProtocol):
    """A connection with limits, which the subclass from :func:`bounded` has."""

    bounds: ClassVar[ConnectionLimits]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._in_head = True
        self._head_bytes = 0
        self._deadline: float | None = None
        """Time by which the current request must have arrived."""
        self._timer: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._refusal: tuple[str, str] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept the connection. At the maximum, close an idle one for it."""
        super().connection_made(transport)
        bounds = self.bounds
        if len(self.connections) > bounds.max_connections and not self._close_idle():
            self._end_with(
                "backend_unavailable",
                f"{bounds.max_connections} connections are open and busy (max_connections={bounds.max_connections}); "
                "retry later, or raise FRESHDB_MAX_CONNECTIONS",
            )
            return
        bounds.waiting[self] = None
        self._set_deadline(bounds.request_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timers and forget the connection."""
        self.bounds.waiting.pop(self, None)
        for timer in (self._timer, self._stalled):
            if timer is not None:
                timer.cancel()
        self._timer = self._stalled = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse the data within the limits."""
        if self.transport.is_closing():
            return
        if self._in_head:
            if self._deadline is None:
                self._set_deadline(self.bounds.request_seconds)
            self._head_bytes += len(data)
        super().data_received(data)
        if (
            self._in_head
            and self._head_bytes > self.bounds.max_header_bytes
            and not self.transport.is_closing()
        ):
            self._refusal = self._too_large()
            self.send_400_response("")

    def on_headers_complete(self) -> None:
        """Check the size of the headers, and pass the request on."""
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.bounds.max_header_bytes:
            self._refusal = self._too_large()
            raise _Refused
        if len(self.url) > _LONGEST_TARGET_BYTES:
            self._refusal = (
                "uri_too_long",
                f"path and query are {len(self.url)} bytes together, and the maximum is {_LONGEST_TARGET_BYTES}",
            )
            raise _Refused
        self._in_head = False
        self._head_bytes = 0
        self.bounds.waiting.pop(self, None)
        self.scope[ARRIVED] = perf_counter()  # type: ignore[typeddict-unknown-key]
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Extend the timeout by the size of the received part."""
        if self._deadline is not None:
            self._deadline += len(body) / _SLOWEST_BYTES_PER_SECOND
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Cancel the receive timeout."""
        self._deadline = None
        self._in_head = True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Mark the connection as idle, unless its next request has arrived."""
        super().on_response_complete()
        if not self.pipeline and not self.transport.is_closing():
            self.bounds.waiting[self] = None

    def pause_writing(self) -> None:
        """Start the write timeout, because the client does not read."""
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(self.bounds.reader_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Cancel the write timeout, because the client reads again."""
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that is malformed or too large."""
        code, detail = self._refusal or ("malformed_request", f"not a valid HTTP/1.1 request: {msg}")
        self._end_with(code, detail)

    def _unsupported_upgrade_warning(self) -> None:
        """Log nothing. A client that asks for another protocol gets HTTP."""

    def _set_deadline(self, seconds: float) -> None:
        self._deadline = self.loop.time() + seconds
        if self._timer is None:
            self._timer = self.loop.call_later(seconds, self._check_deadline)

    def _check_deadline(self) -> None:
        """Check the deadline when the timer has fired."""
        self._timer = None
        if self._deadline is None or self.transport.is_closing():
            return
        left = self._deadline - self.loop.time()
        if self.flow.read_paused:  # the service itself has paused reading
            self._set_deadline(self.bounds.request_seconds)
        elif left > 0:
            self._timer = self.loop.call_later(left, self._check_deadline)
        elif self._in_head and not self._head_bytes:
            self.transport.close()  # no request has begun
        else:
            self._end_with(
                "request_timeout",
                f"the request did not arrive within {self.bounds.request_seconds:g} s (request_seconds); send it again",
            )

    def _close_idle(self) -> bool:
        for idle in self.bounds.waiting:
            del self.bounds.waiting[idle]
            idle.transport.close()
            return True
        return False

    def _too_large(self) -> tuple[str, str]:
        return (
            "headers_too_large",
            f"request line and headers exceed the maximum of {self.bounds.max_header_bytes} bytes (max_header_bytes)",
        )

    def _end_with(self, code: str, detail: str) -> None:
        """Close the connection. Before that, send the error, unless a response has started."""
        cycle: RequestResponseCycle | None = self.cycle
        answered = cycle is None or cycle.response_complete
        if cycle is None or cycle.response_complete or not cycle.response_started:
            self.transport.write(raw(problem(code, detail)))
        if cycle is not None and not answered:
            cycle.disconnected = True
            cycle.message_event.set()
        self._deadline = None
        self.transport.close()


def bounded(limits: ConnectionLimits) -> type[LimitedConnection]:
    """Create the class of connections with these limits."""

    class Bounded(LimitedConnection):
        bounds = limits

    return Bounded
