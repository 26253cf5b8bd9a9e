"""Connections that are lost during a COPY."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator

import asyncpg
import pytest
import uvloop

from freshdb_service.postgres import ignore_lost_connections
from tests.servers import PostgresServer


@pytest.mark.parametrize("forgiving", [True, False])
def test_connection_lost_during_copy_is_raised_once(
    postgres_18: PostgresServer, caplog: pytest.LogCaptureFixture, *, forgiving: bool
) -> None:
    """If the second case fails, asyncpg has fixed its bug, and ``ignore_lost_connections`` can be removed."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if forgiving:
            ignore_lost_connections(runner.get_loop())
        with pytest.raises(asyncpg.InterfaceError, match="closed"):
            runner.run(_copy_and_lose(postgres_18.dsn))
        gc.collect()
    reported = [record.getMessage() for record in caplog.records if record.name == "asyncio"]
    assert any("exception was never retrieved" in line for line in reported) == (not forgiving)


def test_other_unhandled_errors_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def forget() -> None:
        asyncio.get_running_loop().create_future().set_exception(ValueError("lost"))

    with asyncio.Runner() as runner:
        ignore_lost_connections(runner.get_loop())
        runner.run(forget())
    gc.collect()
    assert "lost" in caplog.text


async def _copy_and_lose(dsn: str) -> None:
    connection, other = await asyncpg.connect(dsn), await asyncpg.connect(dsn)

    async def source() -> AsyncIterator[bytes]:
        yield b"one\n"
        await other.execute(f"SELECT pg_terminate_backend({connection.get_server_pid():d})")
        while not connection.is_closed():
            await asyncio.sleep(0)
        yield b"two\n"

    try:
        await connection.execute("CREATE TEMPORARY TABLE word (word text)")
        async with connection.transaction():
            await connection.copy_to_table("word", source=source(), format="text")
    finally:
        await other.close()
