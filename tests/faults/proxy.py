"""A proxy in front of a real server that can delay, swallow or refuse traffic, or lead to another server.

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
_AT_ONCE = struct.pack("ii", 1, 0)
T = TypeVar("T")


@dataclass(eq=False, slots=True)
class _Talk:
    """One connection through the proxy."""

    sides: list[asyncio.StreamWriter] = field(default_factory=list)
    lost: bool = False
    """Some data was swallowed, so later data would make no sense to the other side."""


class Proxy:
    """A proxy in front of the server of a URL. ``url`` is the same URL through the proxy."""

    def __init__(self, url: str) -> None:
        self.given = url
        self.url = ""
        self._target = _place(url)
        self._delay_seconds = 0.0
        self._swallows = False
        self._resets_left = 0
        self._talks: set[_Talk] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._listen())
        parts = urlsplit(self.given)
        user = parts.netloc.rpartition("@")[0]
        self.url = urlunsplit(parts._replace(netloc=f"{user}@127.0.0.1:{self._port}"))
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._shut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def slow(self, seconds: float) -> None:
        """Delay every answer by some seconds."""
        self._delay_seconds = seconds

    def swallow(self) -> None:
        """Drop all data in both directions, and keep all connections open."""
        self._swallows = True

    def pass_on(self) -> None:
        """Pass on all data again. Connections that lost data still pass on nothing."""
        self._swallows = False
        self._delay_seconds = 0.0
        if self._server is None:
            self._do(self._listen())

    def refuse(self) -> None:
        """Refuse new connections, and close all open ones."""
        self._do(self._shut())

    def reset(self) -> None:
        """Reset all open connections (RST), as a machine does that does not know the connection."""
        self._do(self._reset())

    def reset_next(self, number: int) -> None:
        """Reset that many connections, each when the client next sends data. The data is lost."""
        self._resets_left = number

    def lead_to(self, url: str) -> None:
        """Lead new connections to another server, and close those to the previous one."""
        self._target = _place(url)
        self._do(self._cut())

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return len(self._talks)

    def _do(self, work: Coroutine[object, object, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._take, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def _shut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._cut()

    async def _cut(self) -> None:
        """Close the open connections. New ones may arrive in the meantime."""
        there = set(self._tasks)
        for task in there:
            task.cancel()
        if there:
            await asyncio.wait(there)

    async def _reset(self) -> None:
        for talk in self._talks:
            _reset_on_close(talk)
        await self._cut()

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._talk(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = _Talk([writer])
        self._talks.add(talk)
        try:
            with suppress(OSError):
                there_reader, there = await asyncio.open_connection(*self._target)
                talk.sides.append(there)
                await asyncio.gather(
                    self._relay(talk, reader, there, late=False),
                    self._relay(talk, there_reader, writer, late=True),
                )
        finally:
            self._talks.discard(talk)
            for side in talk.sides:
                side.transport.abort()

    async def _relay(
        self, talk: _Talk, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, late: bool
    ) -> None:
        with suppress(OSError):
            while said := await source.read(_CHUNK):
                if not late and self._resets_left:
                    self._resets_left -= 1
                    talk.lost = True
                    _reset_on_close(talk)
                    for side in talk.sides:
                        side.transport.abort()
                    return
                talk.lost = talk.lost or self._swallows
                if talk.lost:
                    continue
                if late and self._delay_seconds:
                    await asyncio.sleep(self._delay_seconds)
                sink.write(said)
                await sink.drain()
        if not talk.lost:
            sink.close()


def _reset_on_close(talk: _Talk) -> None:
    for side in talk.sides:
        side.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)


def _place(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "127.0.0.1", parts.port or 0
