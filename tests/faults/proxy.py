"""A proxy in front of a real server that can delay, drop or refuse traffic, or lead to another server.

It runs in a thread of its own. Its behaviour can be changed from any thread at any time.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self, TypeVar
from urllib.parse import urlsplit, urlunsplit

_CHUNK = 65_536
_LINGER_ZERO = struct.pack("ii", 1, 0)
T = TypeVar("T")


@dataclass(eq=False, slots=True)
class _Connection:
    """One connection through the proxy."""

    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    data_lost: bool = False
    """Some data was dropped, so later data would make no sense to the other side."""


class Proxy:
    """A proxy in front of the server of a URL. ``url`` is the same URL through the proxy."""

    def __init__(self, url: str) -> None:
        self.server_url = url
        self.url = ""
        self._target = _address(url)
        self._delay_seconds = 0.0
        self._drops = False
        self._resets_left = 0
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._listen())
        parts = urlsplit(self.server_url)
        user = parts.netloc.rpartition("@")[0]
        self.url = urlunsplit(parts._replace(netloc=f"{user}@127.0.0.1:{self._port}"))
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def delay(self, seconds: float) -> None:
        """Delay every answer by some seconds."""
        self._delay_seconds = seconds

    def drop_all(self) -> None:
        """Drop all data in both directions, and keep all connections open."""
        self._drops = True

    def pass_on(self) -> None:
        """Pass on all data again. Connections that lost data still pass on nothing."""
        self._drops = False
        self._delay_seconds = 0.0
        if self._server is None:
            self._run(self._listen())

    def refuse(self) -> None:
        """Refuse new connections, and close all open ones."""
        self._run(self._close())

    def reset(self) -> None:
        """Reset all open connections (RST), as a machine does that does not know the connection."""
        self._run(self._reset())

    def reset_next(self, number: int) -> None:
        """Reset that many connections, each when the client next sends data. The data is lost."""
        self._resets_left = number

    def switch_to(self, url: str) -> None:
        """Lead new connections to another server, and close those to the previous one."""
        self._target = _address(url)
        self._run(self._close_connections())

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return len(self._connections)

    def _run(self, coroutine: Coroutine[object, object, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._close_connections()

    async def _close_connections(self) -> None:
        """Close the open connections. New ones may arrive in the meantime."""
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _reset(self) -> None:
        for connection in self._connections:
            _reset_on_close(connection)
        await self._close_connections()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection([writer])
        self._connections.add(connection)
        try:
            with suppress(OSError):
                server_reader, server_writer = await asyncio.open_connection(*self._target)
                connection.writers.append(server_writer)
                await asyncio.gather(
                    self._relay(connection, reader, server_writer, delayed=False),
                    self._relay(connection, server_reader, writer, delayed=True),
                )
        finally:
            self._connections.discard(connection)
            for one in connection.writers:
                one.transport.abort()

    async def _relay(
        self,
        connection: _Connection,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        *,
        delayed: bool,
    ) -> None:
        with suppress(OSError):
            while data := await source.read(_CHUNK):
                if not delayed and self._resets_left:
                    self._resets_left -= 1
                    connection.data_lost = True
                    _reset_on_close(connection)
                    for one in connection.writers:
                        one.transport.abort()
                    return
                connection.data_lost = connection.data_lost or self._drops
                if connection.data_lost:
                    continue
                if delayed and self._delay_seconds:
                    await asyncio.sleep(self._delay_seconds)
                sink.write(data)
                await sink.drain()
        if not connection.data_lost:
            sink.close()


def _reset_on_close(connection: _Connection) -> None:
    for one in connection.writers:
        one.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "127.0.0.1", parts.port or 0
