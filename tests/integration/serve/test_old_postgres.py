"""A PostgreSQL older than 15 is refused.

No such version can be installed here, so the real one's answer to one question is changed on its way: a proxy that makes
the server's version 14.
"""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import pytest

from freshdb_service.errors import ServerRefused
from freshdb_service.postgres import Server, ServerOptions
from tests.servers import PostgresServer


async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, old: bytes, new: bytes) -> None:
    while data := await reader.read(65536):
        writer.write(data.replace(old, new))
        await writer.drain()
    writer.close()


async def test_postgresql_older_than_15_is_refused(postgres_15: PostgresServer) -> None:
    parts = urlsplit(postgres_15.dsn)
    version = await _version(postgres_15.dsn)
    relays: list[asyncio.Task[None]] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inward, outward = await asyncio.open_connection(parts.hostname, parts.port)
        older = (140000 + version % 10000).to_bytes(4, "big")
        relays.append(asyncio.create_task(relay(reader, outward, b"\0", b"\0")))
        relays.append(asyncio.create_task(relay(inward, writer, version.to_bytes(4, "big"), older)))

    proxy = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = proxy.sockets[0].getsockname()[1]
    dsn = urlunsplit(parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{port}"))
    with pytest.raises(ServerRefused, match=r"runs PostgreSQL 14; freshdb needs 15 or newer") as caught:
        await Server.open("old", dsn, installation=uuid4(), options=ServerOptions())
    assert "old" in caught.value.message
    proxy.close()
    await asyncio.gather(*relays, return_exceptions=True)


async def _version(dsn: str) -> int:
    server = await Server.open("new", dsn, installation=uuid4(), options=ServerOptions())
    await server.close()
    return server.version
