"""Autovacuum runs functions of a table's owner without a session of the holder. They must not outlive the lease."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import uuid4

import pytest

from freshdb_service.embedded import EmbeddedPostgres, postgres_binaries
from freshdb_service.lifecycle import Isolation
from freshdb_service.postgres import ServerOptions
from tests.integration.postgres.conftest import managed
from tests.integration.postgres.stage import build_template, connected, pg_dump, pool_of
from tests.servers import wanted_majors

HARMLESS = """
CREATE OR REPLACE FUNCTION f(a integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN a; END $$
"""
MALICIOUS = """
CREATE OR REPLACE FUNCTION f(a integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS
$$ BEGIN PERFORM @schema@.write_later(); RETURN a; END $$
"""
WRITES_LATER = """
CREATE FUNCTION write_later() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF session_user <> current_user AND NOT EXISTS (SELECT FROM @schema@.spy) THEN  -- autovacuum, on its owner's behalf
        PERFORM pg_advisory_lock(4711);
        PERFORM pg_sleep(3);
        INSERT INTO @schema@.spy VALUES (666);
        PERFORM pg_advisory_unlock(4711);
    END IF;
END $$
"""
IS_RUNNING = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711"
PLACES = [(major, isolation) for major in wanted_majors() for isolation in Isolation]


@pytest.mark.parametrize(("major", "isolation"), PLACES, ids=str)
async def test_function_run_by_autovacuum_does_not_write_for_the_next_holder(
    major: int, isolation: Isolation, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """When the lease ends, the function has its original definition again."""
    directory: Path = tmp_path_factory.mktemp("autovacuum")
    directory.chmod(0o711)
    postgres = EmbeddedPostgres(
        directory / "server",
        binaries=postgres_binaries(major),
        settings={"autovacuum": "on", "autovacuum_naptime": "1s"},
    )
    options = ServerOptions(pg_dump=pg_dump(), command_timeout_seconds=30)
    try:
        async with managed(await postgres.start(), options) as server:
            tables = "CREATE TABLE t (a integer); CREATE TABLE spy (a integer); CREATE INDEX ON t (f(a))"
            pool = await pool_of(server, isolation, await build_template(server, HARMLESS, tables))
            database_id = uuid4()
            login = await pool.provision(database_id)
            async with connected(server, login) as holder:
                for statement in (WRITES_LATER, MALICIOUS):
                    await holder.execute(statement.replace("@schema@", login.schema or "public"))
                await holder.execute("INSERT INTO t SELECT generate_series(1, 1000)")
                while not await holder.fetchval(IS_RUNNING):
                    await asyncio.sleep(0.05)
                await holder.execute(HARMLESS + "; DROP FUNCTION write_later()")
            outcome = await pool.reset(database_id, 2)
            assert outcome.path == "rebuild"
            assert outcome.leftovers is not None
            assert [one.rpartition(".")[2] for one in outcome.leftovers.objects] == ["f(integer)"]
            async with connected(server, outcome.login) as following:
                assert await following.fetchval(IS_RUNNING) == 0  # no session is left that could write
                assert await following.fetchval("SELECT count(*) FROM spy") == 0
    finally:
        await postgres.stop()
