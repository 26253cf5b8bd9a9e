"""Executes the steps of flows over HTTP: a blocking transport and an asynchronous one. Only this module imports httpx.

Each transport keeps connections alive. After a fork, it opens new ones, so that parent and child never share a
connection. The asynchronous one does so for each event loop, too.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar
from urllib.parse import urlsplit

from freshdb.clock import elapsed_seconds
from freshdb.messages import Answer, Failure, Flow, Outcome, Pause, Send, problem
from freshdb.tracing import operation_span, request_span

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence


@contextmanager
def _without_command_line() -> Iterator[None]:
    """Import httpx without its command line, because click and rich would take two thirds of the time."""
    if "httpx" in sys.modules or "httpx._main" in sys.modules:
        yield
        return
    missing: dict[str, None] = {"httpx._main": None}  # httpx treats this as "not installed"
    sys.modules.update(missing)  # type: ignore[arg-type]  # None is the documented way to block an import
    try:
        yield
    finally:
        sys.modules.pop("httpx._main", None)


with _without_command_line():
    import httpx

T = TypeVar("T")

_CONNECT_SECONDS: Final = 5.0
_TEMPORARY: Final = frozenset({429, 502, 503, 504})
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_LIMITS: Final = httpx.Limits(max_connections=None, max_keepalive_connections=20)
"""No limit, because a heartbeat must not wait behind a hundred calls that wait for a database."""
_NOT_SENT: Final = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)


class StreamBroken(Exception):
    """A stream broke, or could not be opened."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


class ConnectionSettings:
    """Settings of the connections: headers of every call, TLS, proxies and limits."""

    def __init__(self, urls: Sequence[str], token: str | None, user_agent: str) -> None:
        self._headers = {"user-agent": user_agent, "accept": "application/json"}
        if token:
            self._headers["authorization"] = f"Bearer {token}"
        parts = [urlsplit(url) for url in urls]
        self._plain = all(one.scheme == "http" for one in parts)
        self._loopback = all(one.hostname in _LOOPBACK for one in parts)

    def __repr__(self) -> str:
        """Show no headers, because they contain the token."""
        return "ConnectionSettings(…)"

    def _verify(self) -> ssl.SSLContext | bool:
        # reading certifi's bundle takes 0.1 s, and plain HTTP does not need it
        if self._plain:
            return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # Set here, because httpx reads these variables only together with those for proxies.
        file, directory = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
        return ssl.create_default_context(cafile=file, capath=directory) if file or directory else True

    def _options(self) -> dict[str, Any]:
        """Return the options that both kinds of clients have."""
        options = {"headers": self._headers, "verify": self._verify(), "limits": _LIMITS}
        return {**options, "trust_env": not self._loopback}

    def open(self) -> httpx.Client:
        """Open a blocking httpx client."""
        mounts: dict[str, httpx.BaseTransport | None] = dict.fromkeys(self._direct)
        return httpx.Client(mounts=mounts, **self._options())

    def open_async(self) -> httpx.AsyncClient:
        """Open an httpx client for the running event loop."""
        mounts: dict[str, httpx.AsyncBaseTransport | None] = dict.fromkeys(self._direct)
        return httpx.AsyncClient(mounts=mounts, **self._options())

    @property
    def _direct(self) -> list[str]:
        # a proxy of the environment cannot reach the loopback addresses of this machine
        return [] if self._loopback else ["all://127.0.0.1", "all://[::1]", "all://localhost"]


class Transport:
    """Executes steps, blocking. Thread-safe."""

    def __init__(self, connection: ConnectionSettings) -> None:
        self._connection = connection
        self._opened = connection.open()  # at once, so that concurrent threads do not open two
        self._inherited: httpx.Client | None = None
        self._pid = os.getpid()
        self._closed = False

    def http(self) -> httpx.Client:
        """Return this process's httpx client.

        Raises:
            RuntimeError: the client is closed.
        """
        if self._closed:
            message = "this freshdb client is closed"
            raise RuntimeError(message)
        if self._pid != os.getpid():
            self._inherited = (
                self._opened
            )  # the parent's sockets: a reference avoids their finalizer, and so a warning
            self._opened, self._pid = self._connection.open(), os.getpid()
        return self._opened

    def run(self, flow: Flow[T]) -> T:
        """Run a flow and return its result."""
        outcome: Outcome = None
        with operation_span(flow):
            try:
                while True:
                    outcome = self._execute(flow.send(outcome))
            except StopIteration as finished:
                result: T = finished.value
                return result
            finally:
                flow.close()

    def send(self, step: Send) -> Answer | Failure:
        """Send a request and return its outcome."""
        http = self.http()
        sent_at, headers = elapsed_seconds(), _headers(step)
        try:
            with request_span(step, headers) as span:
                response = http.request(
                    step.call.method,
                    step.base + step.call.path,
                    content=step.call.content,
                    headers=headers,
                    timeout=_timeout(step),
                )
                span.record_status(response.status_code)
        except httpx.RequestError as error:
            return _to_failure(error, sent_at)
        return _to_answer(response, sent_at)

    @contextmanager
    def stream(self, step: Send) -> Iterator[Iterator[str]]:
        """Open a stream of lines.

        Raises:
            StreamBroken: the stream could not be opened, or broke later.
            ServiceError: the service refused the stream.
        """
        sent_at = elapsed_seconds()
        try:
            with self.http().stream(
                step.call.method, step.base + step.call.path, headers=_headers(step), timeout=_timeout(step)
            ) as response:
                if response.status_code != httpx.codes.OK:
                    response.read()
                    _raise_refusal(_to_answer(response, sent_at))
                yield response.iter_lines()
        except httpx.RequestError as error:
            raise StreamBroken(_to_failure(error, sent_at)) from error

    def close(self) -> None:
        """Close the connections. In a forked child, those of the parent stay open."""
        self._closed = True
        if self._pid == os.getpid():
            self._opened.close()

    def _execute(self, step: Send | Pause) -> Outcome:
        if isinstance(step, Send):
            return self.send(step)
        time.sleep(step.seconds)
        return None


class AsyncTransport:
    """Executes steps, asynchronously. One event loop at a time can use it."""

    def __init__(self, connection: ConnectionSettings) -> None:
        self._connection = connection
        self._opened: httpx.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    def http(self) -> httpx.AsyncClient:
        """Return this event loop's httpx client.

        Raises:
            RuntimeError: the client is closed.
        """
        if self._closed:
            message = "this freshdb client is closed"
            raise RuntimeError(message)
        loop = asyncio.get_running_loop()
        if self._opened is None or self._loop is not loop:  # a forked child has a new loop, too
            self._opened, self._loop = self._connection.open_async(), loop
        return self._opened

    async def run(self, flow: Flow[T]) -> T:
        """Run a flow and return its result."""
        outcome: Outcome = None
        with operation_span(flow):
            try:
                while True:
                    outcome = await self._execute(flow.send(outcome))
            except StopIteration as finished:
                result: T = finished.value
                return result
            finally:
                flow.close()

    async def send(self, step: Send) -> Answer | Failure:
        """Send a request and return its outcome."""
        http = self.http()
        sent_at, headers = elapsed_seconds(), _headers(step)
        try:
            with request_span(step, headers) as span:
                response = await http.request(
                    step.call.method,
                    step.base + step.call.path,
                    content=step.call.content,
                    headers=headers,
                    timeout=_timeout(step),
                )
                span.record_status(response.status_code)
        except httpx.RequestError as error:
            return _to_failure(error, sent_at)
        return _to_answer(response, sent_at)

    @asynccontextmanager
    async def stream(self, step: Send) -> AsyncIterator[AsyncIterator[str]]:
        """Open a stream of lines.

        Raises:
            StreamBroken: the stream could not be opened, or broke later.
            ServiceError: the service refused the stream.
        """
        sent_at = elapsed_seconds()
        try:
            async with self.http().stream(
                step.call.method, step.base + step.call.path, headers=_headers(step), timeout=_timeout(step)
            ) as response:
                if response.status_code != httpx.codes.OK:
                    await response.aread()
                    _raise_refusal(_to_answer(response, sent_at))
                yield response.aiter_lines()
        except httpx.RequestError as error:
            raise StreamBroken(_to_failure(error, sent_at)) from error

    async def close(self) -> None:
        """Close the connections."""
        self._closed = True
        opened, self._opened = self._opened, None
        if opened is not None and self._loop is asyncio.get_running_loop():
            await opened.aclose()

    async def _execute(self, step: Send | Pause) -> Outcome:
        if isinstance(step, Send):
            return await self.send(step)
        await asyncio.sleep(step.seconds)
        return None


def _raise_refusal(answer: Answer) -> NoReturn:
    if answer.status in _TEMPORARY:
        raise StreamBroken(Failure(str(problem(answer)), delivered=True, sent_at=answer.sent_at))
    raise problem(answer)


def _headers(step: Send) -> dict[str, str]:
    content_type = {} if step.call.content is None else {"content-type": "application/json"}
    return {**content_type, **step.call.headers}


def _timeout(step: Send) -> httpx.Timeout:
    return httpx.Timeout(step.timeout_seconds, connect=min(_CONNECT_SECONDS, step.timeout_seconds))


def _to_answer(response: httpx.Response, sent_at: float) -> Answer:
    return Answer(response.status_code, response.headers, response.content, sent_at)


def _to_failure(error: httpx.RequestError, sent_at: float) -> Failure:
    reason = str(error) or type(error).__name__
    return Failure(reason, delivered=not isinstance(error, _NOT_SENT), sent_at=sent_at)
