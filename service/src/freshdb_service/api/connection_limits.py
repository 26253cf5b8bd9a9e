"""What one connection may cost: what it sends and how slowly, how long it idles, and how slowly it reads.

uvicorn reads requests (with httptools) and bounds none of this by itself: a head may go on for ever, a request may take an
hour to arrive, and whoever never reads an answer keeps it in memory. So here a head has a size, a request has a time to
arrive in, and a reader that stalls is dropped. Between requests a connection may idle for ``idle_connection_seconds``; when
there are as many as there may be, the one that idled longest makes room, so that nobody can lock others out by just being
connected.

Nothing of this costs a request more than a few attributes: there is one timer for each connection, and it looks at its
deadline only when it fires.
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
"""Where a request's scope says when its head had arrived (``perf_counter``)."""
_SLOWEST_BYTES_PER_SECOND: Final = 64 * 1024
"""A body may take longer than ``request_seconds`` by what it needs at this rate."""
_LONGEST_TARGET_BYTES: Final = 8 * 1024


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The limits of every connection, and those that wait for a request, the longest first."""

    max_connections: int
    max_header_bytes: int
    request_seconds: float
    reader_seconds: float
    waiting: dict[LimitedConnection, None] = field(default_factory=dict)


class _Refused(Exception):
    """Ends the parsing of a request."""


class LimitedConnection(HttpToolsProtocol):
    """One connection, within its bounds (of the subclass that :func:`bounded` makes)."""

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
        """When what is being received has to be there."""
        self._timer: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._refusal: tuple[str, str] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a place; where there is none, that of a connection that idles."""
        super().connection_made(transport)
        bounds = self.bounds
        if len(self.connections) > bounds.max_connections and not self._make_room():
            self._end_with(
                "backend_unavailable",
                f"{bounds.max_connections} connections are open, and all are in use; try again, or raise max_connections",
            )
            return
        bounds.waiting[self] = None
        self._expect(bounds.request_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place back."""
        self.bounds.waiting.pop(self, None)
        for timer in (self._timer, self._stalled):
            if timer is not None:
                timer.cancel()
        self._timer = self._stalled = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, within bounds."""
        if self.transport.is_closing():
            return
        if self._in_head:
            if self._deadline is None:
                self._expect(self.bounds.request_seconds)
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
        """The head is there: see that it is small enough, and hand the request on."""
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.bounds.max_header_bytes:
            self._refusal = self._too_large()
            raise _Refused
        if len(self.url) > _LONGEST_TARGET_BYTES:
            self._refusal = (
                "uri_too_long",
                f"path and query may have at most {_LONGEST_TARGET_BYTES} bytes together",
            )
            raise _Refused
        self._in_head = False
        self._head_bytes = 0
        self.bounds.waiting.pop(self, None)
        self.scope[ARRIVED] = perf_counter()  # type: ignore[typeddict-unknown-key]
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """What has arrived gives time for more."""
        if self._deadline is not None:
            self._deadline += len(body) / _SLOWEST_BYTES_PER_SECOND
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is there."""
        self._deadline = None
        self._in_head = True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """It is answered: the connection idles, unless its next request is here already."""
        super().on_response_complete()
        if not self.pipeline and not self.transport.is_closing():
            self.bounds.waiting[self] = None

    def pause_writing(self) -> None:
        """Nobody reads what is sent: for so long, and no longer."""
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(self.bounds.reader_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """It is read."""
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be parsed, or is too large."""
        code, detail = self._refusal or ("malformed_request", f"this is no HTTP/1.1 request: {msg}")
        self._end_with(code, detail)

    def _unsupported_upgrade_warning(self) -> None:
        """Whoever asks for another protocol gets HTTP; there is nothing to log about it."""

    def _expect(self, seconds: float) -> None:
        self._deadline = self.loop.time() + seconds
        if self._timer is None:
            self._timer = self.loop.call_later(seconds, self._look)

    def _look(self) -> None:
        """The timer has fired: look whether anything is late."""
        self._timer = None
        if self._deadline is None or self.transport.is_closing():
            return
        left = self._deadline - self.loop.time()
        if self.flow.read_paused:  # it is we who do not read
            self._expect(self.bounds.request_seconds)
        elif left > 0:
            self._timer = self.loop.call_later(left, self._look)
        elif self._in_head and not self._head_bytes:
            self.transport.close()  # nothing was asked
        else:
            self._end_with(
                "request_timeout",
                f"the request had not arrived after {self.bounds.request_seconds:g} seconds",
            )

    def _make_room(self) -> bool:
        for idle in self.bounds.waiting:
            del self.bounds.waiting[idle]
            idle.transport.close()
            return True
        return False

    def _too_large(self) -> tuple[str, str]:
        return (
            "headers_too_large",
            f"the request line and the headers may have at most {self.bounds.max_header_bytes} bytes together",
        )

    def _end_with(self, code: str, detail: str) -> None:
        """Say why, unless an answer is under way, and hang up."""
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
    """The class of connections within these bounds."""

    class Bounded(LimitedConnection):
        bounds = limits

    return Bounded
