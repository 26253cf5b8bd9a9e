"""Servers that can be managed, and the errors for those that cannot."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import psycopg
import pytest

from freshdb_service.errors import BackendUnavailable, ConfigurationError, FreshdbError, ServerRefused
from freshdb_service.postgres import (
    Server,
    ServerOptions,
    create_build,
    drop_owned,
    ensure_control_database,
    foreign_databases,
    inventory,
    provision_database,
)
from freshdb_service.postgres.server import capabilities as facts_module
from tests.integration.postgres.conftest import plain_role
from tests.integration.postgres.stage import build_template
from tests.limits import LIMIT_SECONDS
from tests.servers import PostgresServer


async def refusal(dsn: str, options: ServerOptions) -> FreshdbError:
    with pytest.raises(FreshdbError) as raised:
        await Server.open("main", dsn, installation=uuid4(), options=options)
    assert "main" in raised.value.message
    password = urlsplit(dsn).password if "://" in dsn else None
    if password:
        assert password not in raised.value.message
    return raised.value


def changed(
    dsn: str, *, user: str | None = None, password: str | None = None, database: str | None = None
) -> str:
    parts = urlsplit(dsn)
    netloc = f"{user or parts.username}:{password or parts.password}@{parts.hostname}:{parts.port}"
    return urlunsplit(parts._replace(netloc=netloc, path=f"/{database}" if database else parts.path))


async def test_server_reports_its_capabilities(postgres: PostgresServer, server: Server) -> None:
    parts = urlsplit(postgres.dsn)
    assert (server.host, server.port) == (parts.hostname, parts.port)
    assert server.version // 10_000 == postgres.major
    assert server.is_superuser
    await server.ping()


async def test_plain_role_can_manage_server(plain_server: Server) -> None:
    assert not plain_server.is_superuser
    template = await build_template(plain_server, "CREATE TABLE t ()")
    await provision_database(plain_server, uuid4(), 1, template.database)


@pytest.mark.parametrize(
    "dsn",
    [
        "mysql://u:secret@127.0.0.1/d",
        "postgresql://",
        "not a dsn",
        "",
        "postgresql://u:secret@127.0.0.1:notaport/d",
        "postgresql://u:secret@a,b/d",
        "postgresql://u:secret@127.0.0.1:99999/d",
    ],
)
async def test_malformed_dsn_is_refused(dsn: str, options: ServerOptions) -> None:
    error = await refusal(dsn, options)
    assert isinstance(error, ConfigurationError)
    assert "postgresql://user:password@host:port/database" in error.message
    assert "secret" not in error.message


async def test_wrong_password_is_refused(postgres: PostgresServer, options: ServerOptions) -> None:
    error = await refusal(changed(postgres.dsn, password="wrong-guess"), options)
    assert isinstance(error, ConfigurationError)
    assert "password" in error.message


async def test_dsn_with_missing_database_is_refused(postgres: PostgresServer, options: ServerOptions) -> None:
    error = await refusal(changed(postgres.dsn, database="no_such_database"), options)
    assert isinstance(error, ConfigurationError)
    assert "no_such_database" in error.message


async def test_unreachable_server_is_unavailable(options: ServerOptions) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        error = await refusal(f"postgresql://u:secret@127.0.0.1:{port}/d", options)
    assert isinstance(error, BackendUnavailable)
    assert error.retry_after_seconds


async def test_role_without_createdb_and_createrole_is_refused(
    postgres: PostgresServer, options: ServerOptions
) -> None:
    async with plain_role(postgres.dsn) as dsn:
        superuser = await asyncpg.connect(postgres.dsn)
        await superuser.execute(f"ALTER ROLE {urlsplit(dsn).username} NOCREATEROLE")
        await superuser.close()
        error = await refusal(dsn, options)
    assert isinstance(error, ServerRefused)
    assert "CREATEDB CREATEROLE" in error.message


async def test_old_server_is_refused(
    postgres: PostgresServer, options: ServerOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No server of the tests is that old, so the oldest version is raised."""
    monkeypatch.setattr(facts_module, "OLDEST_VERSION", 99_00_00)
    error = await refusal(postgres.dsn, options)
    assert isinstance(error, ServerRefused)
    assert "15 or newer" in error.message
    name = f"control_{uuid4().hex[:8]}"
    with pytest.raises(ServerRefused):
        await ensure_control_database(postgres.dsn, name)
    connection = await asyncpg.connect(postgres.dsn)
    assert not await connection.fetchval("SELECT count(*) FROM pg_database WHERE datname = $1", name)
    await connection.close()


async def test_malformed_prefix_is_refused_at_start(postgres_18: PostgresServer) -> None:
    with pytest.raises(ValueError, match="prefix"):
        await Server.open(
            "main", postgres_18.dsn, installation=uuid4(), options=ServerOptions(prefix='x"; DROP')
        )


@pytest.fixture
async def somebodys_database(postgres_18: PostgresServer) -> AsyncIterator[str]:
    name = f"accounts_{uuid4().hex[:8]}"
    connection = await asyncpg.connect(postgres_18.dsn)
    await connection.execute(f"CREATE DATABASE {name}")
    yield name
    await connection.execute(f"DROP DATABASE {name}")
    await connection.close()


async def test_databases_of_others_are_listed(server_18: Server, somebodys_database: str) -> None:
    template = await build_template(server_18)
    login = await provision_database(server_18, uuid4(), 1, template.database)
    foreign = await foreign_databases(server_18)
    assert somebodys_database in foreign
    assert not {"postgres", "template0", "template1", template.database, login.database} & set(foreign)


async def test_control_database_is_created_once_and_closed(postgres: PostgresServer) -> None:
    name = f"control_{uuid4().hex[:8]}"
    dsns = await asyncio.gather(*(ensure_control_database(postgres.dsn, name) for _ in range(4)))
    assert set(dsns) == {changed(postgres.dsn, database=name)}
    connection = await asyncpg.connect(dsns[0])
    assert not await connection.fetchval(
        "SELECT has_database_privilege('public', current_database(), 'CONNECT')"
    )
    assert await connection.fetchval("SELECT count(*) FROM pg_database WHERE datname = $1", name) == 1
    await connection.close()
    superuser = await asyncpg.connect(postgres.dsn)
    await superuser.execute(f"DROP DATABASE {name}")
    await superuser.close()


async def test_control_database_with_wrong_dsn_is_refused(postgres_18: PostgresServer) -> None:
    with pytest.raises(ConfigurationError):
        await ensure_control_database(changed(postgres_18.dsn, password="wrong-guess"), "control")
    with pytest.raises(ConfigurationError):
        await ensure_control_database("nonsense", "control")


async def test_stopped_server_is_unavailable_until_it_returns(
    postgres_18: PostgresServer, options: ServerOptions
) -> None:
    """Its connections are lost while they are in use, and the next use opens new ones."""
    server = await Server.open("main", postgres_18.dsn, installation=uuid4(), options=options)
    superuser = await asyncpg.connect(postgres_18.dsn)

    async def work() -> None:
        async with server.maintenance() as connection:
            await connection.execute(f"SELECT pg_sleep({2 * LIMIT_SECONDS}) /* cut */")

    async def cut() -> None:
        while not await superuser.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE query LIKE '%/* cut */' AND pid <> pg_backend_pid()"
        ):
            await asyncio.sleep(0.01)

    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            results = await asyncio.gather(work(), cut(), return_exceptions=True)
        assert isinstance(results[0], BackendUnavailable)
        assert "main" in results[0].message
        await server.ping()
    finally:
        await superuser.close()
        await server.close()
    with pytest.raises(BackendUnavailable):
        await server.ping()


async def test_statement_that_exceeds_its_timeout_is_cancelled(postgres_18: PostgresServer) -> None:
    server = await Server.open(
        "main", postgres_18.dsn, installation=uuid4(), options=ServerOptions(command_timeout_seconds=3)
    )
    try:
        with pytest.raises(BackendUnavailable, match="too long"):
            async with server.maintenance() as connection:
                await connection.execute(f"SELECT pg_sleep({LIMIT_SECONDS})")
    finally:
        await server.close()


async def test_server_full_of_connections_is_unavailable(
    postgres_18: PostgresServer, options: ServerOptions
) -> None:
    async with plain_role(postgres_18.dsn) as dsn:
        superuser = await asyncpg.connect(postgres_18.dsn)
        await superuser.execute(f"ALTER ROLE {urlsplit(dsn).username} CONNECTION LIMIT 1")
        await superuser.close()
        holding = await asyncpg.connect(dsn)
        try:
            assert isinstance(await refusal(dsn, options), BackendUnavailable)
        finally:
            await holding.close()


async def test_parallel_work_waits_for_the_pool(postgres_18: PostgresServer) -> None:
    options = ServerOptions(pool_size=1)
    server = await Server.open("main", postgres_18.dsn, installation=uuid4(), options=options)
    try:
        logins = await asyncio.gather(*(create_build(server, uuid4(), 1, []) for _ in range(4)))
        assert len({one.user for one in logins}) == 4
        for owned in await inventory(server):
            await drop_owned(server, owned)
    finally:
        await server.close()


async def test_lost_connection_becomes_backend_unavailable(
    server_18: Server, postgres_18: PostgresServer
) -> None:
    async def lose_it_and_go_on() -> None:
        async with server_18.maintenance() as connection:
            pid = await connection.fetchval("SELECT pg_backend_pid()")
            with psycopg.connect(postgres_18.dsn) as superuser:
                superuser.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
            with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                await connection.execute("SELECT 1")
            async with connection.transaction():
                pass

    with pytest.raises(BackendUnavailable):
        await lose_it_and_go_on()
