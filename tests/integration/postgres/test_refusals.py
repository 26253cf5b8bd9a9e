"""Templates that cannot be leased as a schema are refused, with every reason."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import asyncpg
import pytest

from freshdb_service.errors import (
    ConfigurationError,
    IsolationUnsupported,
    TemplateNotFound,
)
from freshdb_service.lifecycle import Isolation
from freshdb_service.postgres import (
    Server,
    ServerOptions,
    drop_shared,
    drop_template,
    inventory,
    prepare_shared,
    provision_schema,
)
from tests.integration.postgres.conftest import managed
from tests.integration.postgres.stage import build_template, connected, dump, pool_of
from tests.servers import PostgresServer

REFUSED = {
    "another schema": ("CREATE SCHEMA billing", "the schema billing"),
    "no public": ("DROP SCHEMA public CASCADE", 'the schema "public" was dropped'),
    "large object": ("SELECT lo_from_bytea(4711, 'x')", "the large object 4711"),
    "publication": ("CREATE TABLE t (); CREATE PUBLICATION news FOR TABLE t", "the publication news"),
    "cast": (
        "CREATE TYPE colour AS ENUM ('red'); CREATE CAST (text AS colour) WITH INOUT",
        "the cast from text to public.colour",
    ),
    "function body": (
        "CREATE TABLE t (); CREATE FUNCTION f() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM PUBLIC.t'",
        'public.f() names the schema "public" in its body',
    ),
    "procedure": (
        'CREATE PROCEDURE p() LANGUAGE plpgsql AS $$ BEGIN PERFORM 1 FROM "public".t; END $$',
        'public.p() names the schema "public" in its body',
    ),
    "function setting": (
        "CREATE FUNCTION f() RETURNS integer LANGUAGE sql SET search_path = public AS 'SELECT 1'",
        'public.f() names the schema "public" in its settings',
    ),
    "text constant": (
        "CREATE SEQUENCE s; CREATE TABLE t (a bigint DEFAULT nextval('public.s'::text::regclass))",
        "text in this definition names the schema",
    ),
    "object numbers": ("CREATE TABLE t (a regclass)", "the column t.a refers to objects by their number"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_ineligible_template_is_refused_with_name_of_object(server: Server, case: str) -> None:
    sql, reason = REFUSED[case]
    template = await build_template(server, sql)
    with pytest.raises(IsolationUnsupported) as refusal:
        await prepare_shared(server, uuid4(), template.database)
    assert any(reason in one for one in refusal.value.reasons), refusal.value.reasons
    assert "use isolation database" in refusal.value.message
    assert {one.name.token for one in await inventory(server)} == {template.id.hex[-12:]}, (
        "something was left behind"
    )


async def test_refusal_lists_every_reason(server: Server) -> None:
    template = await build_template(server, "CREATE SCHEMA a; CREATE SCHEMA b; SELECT lo_from_bytea(0, 'x')")
    with pytest.raises(IsolationUnsupported, match="and 2 more") as refusal:
        await prepare_shared(server, uuid4(), template.database)
    assert len(refusal.value.reasons) == 3
    assert refusal.value.extra["reasons"] == list(refusal.value.reasons)


async def test_settings_of_the_builder_are_refused(server: Server) -> None:
    template = await build_template(server, "ALTER ROLE CURRENT_USER SET statement_timeout = '10s'")
    with pytest.raises(IsolationUnsupported, match="statement_timeout"):
        await prepare_shared(server, uuid4(), template.database)


async def test_template_with_objects_of_superuser_is_refused(server: Server) -> None:
    template = await build_template(server, "CREATE TABLE t ()")
    async with server.maintenance() as connection:
        await connection.execute(f"ALTER DATABASE {template.database} ALLOW_CONNECTIONS true")
    async with server.inside(template.database) as connection:
        await connection.execute(
            "CREATE FUNCTION public.e() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; "
            "CREATE EVENT TRIGGER watch ON ddl_command_end EXECUTE FUNCTION public.e(); "
            "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER elsewhere FOREIGN DATA WRAPPER w"
        )
    async with server.maintenance() as connection:
        await connection.execute(f"ALTER DATABASE {template.database} ALLOW_CONNECTIONS false")
    with pytest.raises(IsolationUnsupported) as refusal:
        await prepare_shared(server, uuid4(), template.database)
    said = " ".join(refusal.value.reasons)
    for name in ("the event trigger watch", "the foreign data wrapper w", "the foreign server elsewhere"):
        assert name in said


async def test_template_whose_schema_cannot_be_created_is_refused(server: Server) -> None:
    """The trial finds reasons that are in no list: this check fails when its rows are loaded again."""
    template = await build_template(
        server,
        "CREATE TABLE child (a integer); CREATE TABLE parent (b integer);"
        "CREATE FUNCTION known(integer) RETURNS boolean LANGUAGE sql AS 'SELECT EXISTS (SELECT FROM parent WHERE b = $1)';"
        "ALTER TABLE child ADD CHECK (known(a)); INSERT INTO parent VALUES (1); INSERT INTO child VALUES (1);"
        "DELETE FROM parent",
    )
    pool_id = uuid4()
    with pytest.raises(IsolationUnsupported, match="creating a schema from this template fails"):
        await prepare_shared(server, pool_id, template.database)
    assert not [one for one in await inventory(server) if one.belongs_to(pool_id)]


async def test_words_similar_to_schema_name_are_no_reason(server: Server) -> None:
    template = await build_template(
        server,
        "CREATE TABLE t (is_public boolean DEFAULT true, audience text DEFAULT 'public', republic text); "
        "CREATE VIEW publicity AS SELECT * FROM t WHERE audience = 'public'; "
        "CREATE FUNCTION f() RETURNS boolean LANGUAGE sql AS 'SELECT is_public FROM t'; "
        "COMMENT ON TABLE t IS 'see public.t'; GRANT SELECT ON t TO PUBLIC",
    )
    await prepare_shared(server, uuid4(), template.database)


async def test_extensions_move_to_the_shared_public(server: Server) -> None:
    async with server.maintenance() as connection:
        rows = await connection.fetch(
            "SELECT name FROM pg_available_extensions WHERE name IN ('vector', 'citext', 'hstore')"
        )
    extensions = [row["name"] for row in rows]
    column = "a vector(3)" if "vector" in extensions else "a citext, b hstore"
    value = "'[1,2,3]'" if "vector" in extensions else "'Text', 'a=>1'"
    sql = f"CREATE TABLE t (id serial, {column}); INSERT INTO t VALUES (1, {value}); CREATE INDEX ON t (a)"
    if "vector" in extensions:
        sql = sql.replace("ON t (a)", "ON t USING hnsw (a vector_l2_ops)")
    template = await build_template(server, sql, extensions=extensions)
    pool = await pool_of(server, Isolation.SCHEMA, template)
    login = await pool.provision(uuid4())
    async with connected(server, login) as connection:
        assert await connection.fetchval("SELECT count(*) FROM t WHERE a IS NOT NULL") == 1
        assert (
            await connection.fetchval(
                "SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = $1", extensions[0]
            )
            == "public"
        )


async def test_concurrent_preparations_prepare_once(server: Server) -> None:
    template = await build_template(server, "CREATE TABLE t (a integer); INSERT INTO t VALUES (1)")
    pool_id = uuid4()
    first, second, third = await asyncio.gather(
        *(prepare_shared(server, pool_id, template.database) for _ in range(3))
    )
    assert first == second == third
    login = await provision_schema(server, uuid4(), 1, first)
    assert (
        await prepare_shared(server, pool_id, template.database) == first
    )  # and no object in it was dropped
    async with connected(server, login) as connection:
        assert await connection.fetchval("SELECT a FROM t") == 1


async def test_shared_database_outlives_its_template(server: Server) -> None:
    template = await build_template(server, "CREATE TABLE t (a integer); INSERT INTO t VALUES (1)")
    pool = await pool_of(server, Isolation.SCHEMA, template)
    await drop_template(server, template.id)
    login = await pool.provision(uuid4())
    async with connected(server, login) as connection:
        assert await connection.fetchval("SELECT a FROM t") == 1


async def test_missing_shared_database_is_named(server: Server) -> None:
    template = await build_template(server)
    pool = await pool_of(server, Isolation.SCHEMA, template)
    await drop_shared(server, pool.id)
    with pytest.raises(TemplateNotFound):
        await pool.provision(uuid4())
    with pytest.raises(TemplateNotFound):
        await prepare_shared(server, uuid4(), "freshdb_t_000000000000_1")
    assert {one.name.token for one in await inventory(server)} == {template.id.hex[-12:]}


async def test_missing_pg_dump_error_names_the_fix(postgres_18: PostgresServer) -> None:
    async with managed(postgres_18.dsn, ServerOptions()) as server:
        template = await build_template(server)
        with pytest.raises(ConfigurationError, match="install PostgreSQL's client programs"):
            await prepare_shared(server, uuid4(), template.database)


async def test_schemas_created_concurrently_all_exist(any_server: Server) -> None:
    template = await build_template(
        any_server, "CREATE TABLE t (a serial, b integer); INSERT INTO t (b) VALUES (1)"
    )
    pool = await pool_of(any_server, Isolation.SCHEMA, template)
    ids = [uuid4() for _ in range(8)]
    logins = await asyncio.gather(*(pool.provision(one) for one in ids))
    for login in logins:
        async with connected(any_server, login) as connection:
            assert await connection.fetchval("SELECT count(*) FROM t") == 1
    outcomes = await asyncio.gather(*(pool.reset(one, 2) for one in ids))
    assert len({one.login.user for one in outcomes}) == 8
    await asyncio.gather(*(pool.drop(one) for one in ids))


async def test_databases_created_concurrently_all_exist(any_server: Server, postgres: PostgresServer) -> None:
    template = await build_template(any_server, "CREATE TABLE t (a integer); INSERT INTO t VALUES (1)")
    pool = await pool_of(any_server, Isolation.DATABASE, template)
    ids = [uuid4() for _ in range(8)]
    logins = await asyncio.gather(*(pool.provision(one) for one in ids))
    for login in logins:
        assert "INSERT" in await dump(postgres.dsn, login.database, "--inserts")
    outcomes = await asyncio.gather(*(pool.reset(one, 2) for one in ids))
    assert len({one.login.user for one in outcomes}) == 8
    await asyncio.gather(*(pool.drop(one) for one in ids))


async def test_session_in_sealed_template_is_terminated(
    server_18: Server, postgres_18: PostgresServer
) -> None:
    """Only a superuser can connect to a sealed template. Its session does not prevent clones."""
    template = await build_template(server_18)
    async with server_18.maintenance() as connection:
        await connection.execute(f"ALTER DATABASE {template.database} ALLOW_CONNECTIONS true")
    pool = await pool_of(server_18, Isolation.DATABASE, template)
    visitor = await asyncpg.connect(postgres_18.dsn, database=template.database)
    login = await pool.provision(uuid4())
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await visitor.execute("SELECT 1")
    async with connected(server_18, login):
        pass
