"""Managed servers for the tests. Each has its own installation, whose objects are dropped afterwards."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest

from freshdb_service.lifecycle import Isolation
from freshdb_service.postgres import Server, ServerOptions, drop_owned, inventory
from tests.integration.postgres.stage import pg_dump
from tests.servers import PostgresServer


@pytest.fixture
def options() -> ServerOptions:
    return ServerOptions(pg_dump=pg_dump(), command_timeout_seconds=30)


@pytest.fixture(params=list(Isolation), ids=str)
def isolation(request: pytest.FixtureRequest) -> Isolation:
    return Isolation(request.param)


@pytest.fixture
async def server(postgres: PostgresServer, options: ServerOptions) -> AsyncIterator[Server]:
    """A server of each version, managed as a superuser."""
    async with managed(postgres.dsn, options) as opened:
        yield opened


@pytest.fixture
async def server_18(postgres_18: PostgresServer, options: ServerOptions) -> AsyncIterator[Server]:
    async with managed(postgres_18.dsn, options) as opened:
        yield opened


@pytest.fixture
async def trusting_server(postgres_trust: PostgresServer, options: ServerOptions) -> AsyncIterator[Server]:
    """A server that asks for no passwords."""
    async with managed(postgres_trust.dsn, options) as opened:
        yield opened


@pytest.fixture
async def plain_dsn(postgres: PostgresServer) -> AsyncIterator[str]:
    """DSN of a role that may only create databases and roles, as on hosted PostgreSQL."""
    async with plain_role(postgres.dsn) as dsn:
        yield dsn


@pytest.fixture
async def plain_server(plain_dsn: str, options: ServerOptions) -> AsyncIterator[Server]:
    async with managed(plain_dsn, options) as opened:
        yield opened


@pytest.fixture(params=["superuser", "plain"])
async def any_server(
    request: pytest.FixtureRequest, postgres: PostgresServer, options: ServerOptions
) -> AsyncIterator[Server]:
    """A server of each version, managed as a superuser and as a plain role."""
    if request.param == "superuser":
        async with managed(postgres.dsn, options) as opened:
            yield opened
        return
    async with plain_role(postgres.dsn) as dsn, managed(dsn, options) as opened:
        yield opened


@asynccontextmanager
async def plain_role(dsn: str) -> AsyncIterator[str]:
    role = f"manager_{uuid4().hex[:8]}"
    superuser = await asyncpg.connect(dsn)
    try:
        await superuser.execute(f"CREATE ROLE {role} LOGIN CREATEDB CREATEROLE PASSWORD 'plain'")
        parts = urlsplit(dsn)
        yield urlunsplit(parts._replace(netloc=f"{role}:plain@{parts.hostname}:{parts.port}"))
        await superuser.execute(f"DROP ROLE {role}")
    finally:
        await superuser.close()


@asynccontextmanager
async def managed(dsn: str, options: ServerOptions) -> AsyncIterator[Server]:
    server = await Server.open("test", dsn, installation=uuid4(), options=options)
    try:
        yield server
        await clear(server)
    finally:
        await server.close()


async def clear(server: Server) -> None:
    """Drop all objects of an installation, as the reconciler does, and check that none is left."""
    for _ in range(3):
        for owned in await inventory(server):
            await drop_owned(server, owned)
    assert await inventory(server) == []
