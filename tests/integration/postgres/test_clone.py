"""A database is indistinguishable from its template."""

from __future__ import annotations

import re
from uuid import uuid4

import asyncpg

from freshdb_service.lifecycle import Isolation
from freshdb_service.postgres import (
    Server,
    create_build,
    prepare_shared,
    provision_database,
    provision_schema,
    run_sql,
    seal,
)
from tests.integration.postgres.stage import (
    EVERYTHING,
    build_template,
    connected,
    dump,
    pool_of,
    renamed,
)
from tests.servers import PostgresServer

OF_THE_DATABASE = """
CREATE SCHEMA other;
CREATE TABLE other.t (a integer, b integer[]);
CREATE FUNCTION other.f() RETURNS integer LANGUAGE sql SET search_path = other, public AS 'SELECT 1';
SELECT lo_from_bytea(0, 'large');
CREATE PUBLICATION all_things FOR TABLE thing;
ALTER DEFAULT PRIVILEGES IN SCHEMA other GRANT ALL ON TABLES TO PUBLIC;
CREATE CAST (text AS status) WITH INOUT;
"""


def without_names(text: str, *names: str) -> str:
    return renamed(text, dict.fromkeys(names, "any_role"))


async def test_clone_equals_template_object_by_object_and_row_by_row(
    any_server: Server, postgres: PostgresServer
) -> None:
    template_id = uuid4()
    build = await create_build(any_server, template_id, 1, [])
    await run_sql(any_server, build, [EVERYTHING, OF_THE_DATABASE], timeout_seconds=60)
    template = await dump(postgres.dsn, build.database)
    sealed = await seal(any_server, template_id, 1)

    login = await provision_database(any_server, uuid4(), 1, sealed.database)

    clone = await dump(postgres.dsn, login.database)
    assert build.user in template
    assert build.user not in clone
    assert without_names(clone, login.user) == without_names(template, build.user)
    assert len(template) > 20_000


async def test_schema_equals_template_object_by_object_and_row_by_row(
    any_server: Server, postgres: PostgresServer
) -> None:
    template_id = uuid4()
    build = await create_build(any_server, template_id, 1, [])
    await run_sql(any_server, build, [EVERYTHING], timeout_seconds=60)
    template = await dump(postgres.dsn, build.database, "--schema=public", "--inserts")
    sealed = await seal(any_server, template_id, 1)
    blueprint = await prepare_shared(any_server, uuid4(), sealed.database)

    login = await provision_schema(any_server, uuid4(), 1, blueprint)

    made = await dump(postgres.dsn, login.database, f"--schema={login.schema}", "--inserts")

    def comparable(text: str, *names: str) -> str:
        # The text of a comment stays the same, whatever the name of the schema.
        text = re.sub(r"\bpublic\b(?!\.opinion)", "any_role", without_names(text, *names))
        entries = re.split(r"^--\n-- .*Name: ", text, flags=re.MULTILINE)[1:]
        of_the_schema = re.compile(r"any_role; Type: SCHEMA;|SCHEMA any_role; Type: |DEFAULT PRIVILEGES FOR ")
        body = sorted(one for one in entries if not of_the_schema.match(one))
        return "".join(body)

    assert comparable(made, login.user) == comparable(template, build.user)


async def test_settings_of_the_template_and_its_builder_reach_the_clone(server: Server) -> None:
    template_id = uuid4()
    build = await create_build(server, template_id, 1, [])
    database, role = build.database, build.user
    script = f"""
    CREATE SCHEMA "Odd, ""schema";
    ALTER DATABASE {database} SET timezone = 'Asia/Tokyo';
    ALTER DATABASE {database} SET search_path = "Odd, ""schema", public;
    ALTER DATABASE {database} SET application_name = 'it''s; DROP';
    ALTER ROLE {role} SET statement_timeout = '12345ms';
    ALTER ROLE {role} IN DATABASE {database} SET lock_timeout = '999ms';
    """
    await run_sql(server, build, [script], timeout_seconds=60)
    sealed = await seal(server, template_id, 1)
    login = await provision_database(server, uuid4(), 1, sealed.database)
    async with connected(server, login) as connection:
        shown = [
            await connection.fetchval("SELECT current_setting($1)", name)
            for name in ("timezone", "search_path", "application_name", "statement_timeout", "lock_timeout")
        ]
        assert await connection.fetchval("SELECT current_schema()") == 'Odd, "schema'
    assert shown == ["Asia/Tokyo", '"Odd, ""schema", public', "it's; DROP", "12345ms", "999ms"]


async def test_settings_of_the_template_reach_its_schemas(server: Server) -> None:
    template_id = uuid4()
    build = await create_build(server, template_id, 1, [])
    await run_sql(
        server, build, [f"ALTER DATABASE {build.database} SET timezone = 'Asia/Tokyo'"], timeout_seconds=60
    )
    sealed = await seal(server, template_id, 1)
    login = await provision_schema(server, uuid4(), 1, await prepare_shared(server, uuid4(), sealed.database))
    async with connected(server, login) as connection:
        assert await connection.fetchval("SHOW timezone") == "Asia/Tokyo"


async def test_default_privileges_of_the_builder_work_for_the_holder(
    server: Server, isolation: Isolation
) -> None:
    template = await build_template(
        server,
        "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC; "
        "ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC",
    )
    pool = await pool_of(server, isolation, template)
    login = await pool.provision(uuid4())
    async with connected(server, login) as connection:
        await connection.execute(
            "CREATE TABLE t (); CREATE FUNCTION f() RETURNS integer LANGUAGE sql AS 'SELECT 1'"
        )
        assert await connection.fetchval("SELECT has_table_privilege('public', 't', 'SELECT')")
        assert not await connection.fetchval("SELECT has_function_privilege('public', 'f()', 'EXECUTE')")


async def test_repeated_clones_are_identical(
    server: Server, postgres: PostgresServer, isolation: Isolation
) -> None:
    pool = await pool_of(server, isolation, await build_template(server, EVERYTHING))
    database_id = uuid4()
    dumps = []
    for generation in (1, 2, 3):
        login = (
            (await pool.reset(database_id, generation)).login
            if generation > 1
            else await pool.provision(database_id, generation)
        )
        dumps.append(
            without_names(
                await dump(postgres.dsn, login.database, f"--schema={login.schema or 'public'}"), login.user
            )
        )
        async with connected(server, login) as connection:
            await connection.execute(
                "DELETE FROM event; DROP VIEW grown_up; SELECT nextval('ticket'); ALTER TABLE child ADD c text; "
                "CREATE TABLE mine (); SELECT lo_from_bytea(0, 'mine'); COMMENT ON TABLE person IS NULL; "
                "GRANT ALL ON secret TO PUBLIC"
            )
    assert dumps[0] == dumps[1] == dumps[2]


async def test_clone_has_the_statistics_of_its_template(server_18: Server) -> None:
    template = await build_template(
        server_18, "CREATE TABLE t AS SELECT n FROM generate_series(1, 1000) AS n"
    )
    login = await provision_database(server_18, uuid4(), 1, template.database)
    async with connected(server_18, login) as connection:
        assert await connection.fetchval("SELECT reltuples FROM pg_class WHERE relname = 't'") == 1000
        assert await connection.fetchval("SELECT count(*) FROM pg_stats WHERE tablename = 't'") == 1


async def test_large_seed_is_copied_completely(server_18: Server, isolation: Isolation) -> None:
    template = await build_template(
        server_18,
        "CREATE TYPE colour AS ENUM ('red', 'green'); CREATE TABLE t (n bigint PRIMARY KEY, c colour, x text); "
        "INSERT INTO t SELECT n, (ARRAY['red', 'green'])[n % 2 + 1]::colour, md5(n::text) "
        "FROM generate_series(1, 50000) AS n",
    )
    pool = await pool_of(server_18, isolation, template)
    login = await pool.provision(uuid4())
    async with connected(server_18, login) as connection:
        row = await connection.fetchrow(
            "SELECT count(*), count(*) FILTER (WHERE c = 'green' AND n % 2 = 1) FROM t"
        )
        assert isinstance(row, asyncpg.Record)
        assert tuple(row) == (50_000, 25_000)
