"""The service's own statements call no function of a template's author, whatever operators, casts and names it defines.

Sealing, resets and audits run as a superuser. PostgreSQL prefers an operator or a cast that fits the types exactly.
"""

from __future__ import annotations

from uuid import uuid4

from freshdb_service.lifecycle import Isolation
from freshdb_service.postgres import CleaningEngine, Server, ServerOptions
from tests.integration.postgres.conftest import managed
from tests.integration.postgres.stage import build_template, connected, pg_dump, pool_of
from tests.servers import PostgresServer

TEMPLATE = """
CREATE TABLE seed (id integer PRIMARY KEY, k integer);
INSERT INTO seed SELECT n, n % 7 FROM generate_series(1, 100) AS n;
CREATE TABLE nothing (id serial PRIMARY KEY, a text);
CREATE TABLE seen (what text);
CREATE FUNCTION noted(real, integer) RETURNS boolean LANGUAGE plpgsql AS
$$ BEGIN INSERT INTO public.seen VALUES ('operator'); RETURN $1 <= $2::real; END $$;
CREATE OPERATOR public.<= (LEFTARG = real, RIGHTARG = integer, FUNCTION = noted);
CREATE OPERATOR public.= (LEFTARG = real, RIGHTARG = integer, FUNCTION = noted);
CREATE FUNCTION noted(seed) RETURNS text LANGUAGE plpgsql AS
$$ BEGIN INSERT INTO public.seen VALUES ('cast'); RETURN 'a row'; END $$;
CREATE CAST (seed AS text) WITH FUNCTION noted(seed);
"""


async def test_sealing_resets_and_audits_call_no_function_of_the_template(postgres: PostgresServer) -> None:
    options = ServerOptions(pg_dump=pg_dump(), command_timeout_seconds=30)
    async with managed(postgres.dsn, options) as server:
        await _try(server)


async def _try(server: Server) -> None:
    pool = await pool_of(server, Isolation.DATABASE, await build_template(server, TEMPLATE))
    pool.engine = CleaningEngine(audit_every=1)
    database_id = uuid4()
    login = await pool.provision(database_id)
    paths = []
    for generation, work in enumerate(
        ("INSERT INTO nothing (a) VALUES ('x')", "INSERT INTO seed VALUES (101, 1)", "ANALYZE nothing"), 2
    ):
        async with connected(server, login) as holder:
            assert await holder.fetch("SELECT * FROM seen") == []
            await holder.execute(work)
        outcome = await pool.reset(database_id, generation)
        login = outcome.login
        paths.append((outcome.path, outcome.audit))
    assert paths[0][0] == "rebuild", "the first audit asks for a fresh copy to compare with"
    assert [audit for _, audit in paths[1:]] == [(), ()], paths
    async with connected(server, login) as holder:
        assert await holder.fetch("SELECT * FROM seen") == []
