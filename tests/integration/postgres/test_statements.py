"""The statements of a former holder in ``pg_stat_statements`` are not those of the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from freshdb_service.embedded import EmbeddedPostgres, postgres_binaries
from freshdb_service.lifecycle import Isolation
from freshdb_service.postgres import ServerOptions
from tests.integration.postgres.conftest import managed
from tests.integration.postgres.stage import build_template, connected, pg_dump, pool_of

RECORDED = "SELECT count(*) FROM pg_stat_statements WHERE query LIKE '%AS word' AND query NOT LIKE '%pg_stat_statements%'"


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The DSN of a PostgreSQL 15 that records statements. The wheels of newer versions lack this extension."""
    binaries = postgres_binaries(15)
    if binaries is None:
        pytest.skip("PostgreSQL 15 is not installed")
    directory: Path = tmp_path_factory.mktemp("statements")
    directory.chmod(0o711)
    settings = {"shared_preload_libraries": "pg_stat_statements"}
    postgres = EmbeddedPostgres(directory / "server", binaries=binaries, settings=settings)
    yield asyncio.run(postgres.start())
    asyncio.run(postgres.stop())


async def test_statements_are_forgotten(recording: str, isolation: Isolation) -> None:
    options = ServerOptions(pg_dump=pg_dump(), command_timeout_seconds=30)
    async with managed(recording, options) as server:
        template = await build_template(server, "SELECT 1", extensions=["pg_stat_statements"])
        pool = await pool_of(server, isolation, template)
        database_id = uuid4()
        login = await pool.provision(database_id)
        async with connected(server, login) as holder:
            await holder.fetch("SELECT 'secret' AS word")
            assert await holder.fetchval(RECORDED) == 1
        outcome = await pool.reset(database_id, 2)
        assert outcome.path == "nothing"
        async with connected(server, outcome.login) as holder:
            assert await holder.fetchval(RECORDED) == 0
