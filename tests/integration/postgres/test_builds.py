"""Builds: one builder, located errors in SQL, and a sealed template that never changes."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from uuid import uuid4

import asyncpg
import pytest

from freshdb_service.errors import BuildLost, Conflict, InvalidRequest, TemplateFailed, TemplateNotFound
from freshdb_service.postgres import (
    Login,
    Server,
    create_build,
    drop_template,
    inventory,
    provision_database,
    run_sql,
    seal,
)
from tests.integration.postgres.stage import build_template, connect, connected


@pytest.fixture
async def build(server: Server) -> Login:
    return await create_build(server, uuid4(), 1, [])


async def test_sql_error_names_statement_and_position(server: Server, build: Login) -> None:
    script = "CREATE TABLE fine (a integer);\n\n-- ä comment\nCREATE TABLE broken (a nonsense);\nSELECT 1"
    with pytest.raises(TemplateFailed) as failure:
        await run_sql(server, build, ["SELECT 1", script], timeout_seconds=30)
    extra = failure.value.extra
    assert extra["sql_index"] == 1
    assert extra["position"] == script.index("nonsense") + 1
    assert extra["line"] == 4
    assert extra["sqlstate"] == "42704"
    assert extra["message"] == 'type "nonsense" does not exist'
    assert "CREATE TABLE broken (a nonsense);" in str(extra["statement"])
    assert "sql[1], line 4" in failure.value.message


@pytest.mark.parametrize(
    "failing",
    [
        "INSERT INTO t VALUES (1)",
        "SELECT 1/0",
        "DO $$ BEGIN PERFORM 1; RAISE EXCEPTION 'no, never'; END $$",
    ],
)
async def test_statement_that_fails_during_execution_is_located(
    server: Server, build: Login, failing: str
) -> None:
    script = f"CREATE TABLE t (a integer PRIMARY KEY);\nINSERT INTO t VALUES (1);\n{failing};\nCREATE TABLE later ();"
    with pytest.raises(TemplateFailed) as failure:
        await run_sql(server, build, [script], timeout_seconds=30)
    extra = failure.value.extra
    if "position" in extra:
        assert extra["position"] == script.index(failing, 60) + 1
        assert extra["line"] == 3
        assert str(extra["statement"]).startswith(failing.split(";", maxsplit=1)[0])
    else:
        assert failing.startswith("DO")
    assert extra["sql_index"] == 0


async def test_long_statement_is_truncated_in_the_error(server: Server, build: Login) -> None:
    with pytest.raises(TemplateFailed) as failure:
        await run_sql(server, build, ["SELECT '" + "x" * 5_000 + "' FROM nowhere"], timeout_seconds=30)
    assert len(str(failure.value.extra["statement"])) == 2_000
    assert failure.value.extra["position"] == 5_016


async def test_syntax_error_at_the_end_has_a_position(server: Server, build: Login) -> None:
    script = "CREATE TABLE t ("
    with pytest.raises(TemplateFailed) as failure:
        await run_sql(server, build, [script], timeout_seconds=30)
    assert failure.value.extra["position"] == len(script) + 1


@pytest.mark.parametrize("script", ["", "   \n", "-- only a comment", ";", "/* one */ ; -- two"])
async def test_script_without_a_statement_is_no_error(server: Server, build: Login, script: str) -> None:
    await run_sql(server, build, [script, "CREATE TABLE t ()", script], timeout_seconds=30)


async def test_scripts_have_sessions_of_their_own(server: Server, build: Login) -> None:
    """A plain dump begins with an empty search path, which must not reach the next file."""
    await run_sql(
        server,
        build,
        [
            "CREATE FUNCTION f() RETURNS text LANGUAGE plpgsql AS $a$ BEGIN RETURN $b$;'$b$; END; $a$; -- it's; fine",
            "BEGIN; CREATE TABLE t (a text DEFAULT ';'); COMMIT",
            "VACUUM ANALYZE",
            "SELECT set_config('search_path', '', false); CREATE TEMPORARY TABLE gone ()",
            "INSERT INTO t SELECT f(); CREATE TABLE gone ()",
        ],
        timeout_seconds=30,
    )
    async with connected(server, build) as connection:
        assert await connection.fetchval("SELECT a FROM t") == ";'"


async def test_statements_that_need_their_own_transaction_run(server: Server, build: Login) -> None:
    await run_sql(
        server,
        build,
        [
            "CREATE TYPE mood AS ENUM ('calm'); ALTER TYPE mood ADD VALUE 'new'; CREATE TABLE t AS SELECT 'new'::mood AS m",
            "BEGIN; CREATE TABLE u (a integer); COMMIT; CREATE INDEX CONCURRENTLY u_a ON u (a); VACUUM u;",
        ],
        timeout_seconds=30,
    )
    async with connected(server, build) as connection:
        assert await connection.fetchval("SELECT m::text FROM t") == "new"
        assert await connection.fetchval("SELECT indisvalid FROM pg_index WHERE indexrelid = 'u_a'::regclass")


async def test_copy_loads_the_data_that_follows_it(server: Server, build: Login) -> None:
    script = (
        "\ufeff\\restrict abc\nCREATE TABLE t (a integer, b text);\nCOPY t (a, b) FROM stdin;\n"
        '1\tsemi;colon\n2\t\\N\n3\tä\n\\.\nCOPY t FROM stdin WITH (FORMAT csv);\n4,"x\ny"\n\\.\n'
        "COPY t TO stdout;\n\\unrestrict abc\n"
    )
    await run_sql(server, build, [script], timeout_seconds=30)
    async with connected(server, build) as connection:
        rows = [tuple(row) for row in await connection.fetch("SELECT a, b FROM t ORDER BY a")]
        assert rows == [(1, "semi;colon"), (2, None), (3, "ä"), (4, "x\ny")]


async def test_error_in_data_names_its_line(server: Server, build: Login) -> None:
    separators = "\x0c\x1e\x85\u2028"  # that end a line for Python, and not for PostgreSQL
    script = (
        f"CREATE TABLE t (a integer, b text);\nCOPY t FROM stdin;\n1\t{separators}\n2\tb\nthree\tc\n\\.\n"
    )
    with pytest.raises(TemplateFailed) as failure:
        await run_sql(server, build, [script], timeout_seconds=30)
    extra = failure.value.extra
    assert (extra["line"], extra["position"]) == (5, script.index("three") + 1)
    assert (extra["sqlstate"], extra["statement"]) == ("22P02", "COPY t FROM stdin;")


@pytest.mark.parametrize("script", ["BEGIN; CREATE TABLE t ();", "CREATE TABLE t ();\nSTART TRANSACTION"])
async def test_open_transaction_is_an_error(server: Server, build: Login, script: str) -> None:
    with pytest.raises(TemplateFailed, match=r"^sql\[1\], line \d: a transaction is open") as failure:
        await run_sql(server, build, ["SELECT 1", script], timeout_seconds=30)
    assert "COMMIT" in str(failure.value.extra["hint"])


@pytest.mark.parametrize(
    "statement",
    ["ALTER TABLE t OWNER TO app;", "GRANT SELECT ON t TO app;", "ALTER TABLE t OWNER TO {service};"],
)
async def test_roles_of_a_dump_get_a_hint(server: Server, build: Login, statement: str) -> None:
    script = f"CREATE TABLE t ();\n{statement.format(service=server.role)}"
    with pytest.raises(TemplateFailed) as failure:
        await run_sql(server, build, [script], timeout_seconds=30)
    assert "--no-owner --no-acl" in str(failure.value.extra["hint"])


async def test_psql_commands_get_a_hint(server: Server, build: Login) -> None:
    with pytest.raises(TemplateFailed) as failure:
        await run_sql(server, build, ["CREATE TABLE t ();\n\\connect other\n"], timeout_seconds=30)
    assert "psql" in str(failure.value.extra["hint"])


async def test_nul_character_is_refused(server_18: Server) -> None:
    build = await create_build(server_18, uuid4(), 1, [])
    with pytest.raises(TemplateFailed, match="NUL"):
        await run_sql(server_18, build, ["SELECT '\0'"], timeout_seconds=30)


async def test_sql_that_exceeds_its_timeout_is_cancelled(server: Server, build: Login) -> None:
    with pytest.raises(TemplateFailed, match=r"longer than 0\.5 seconds"):
        await run_sql(server, build, ["SELECT pg_sleep(60)"], timeout_seconds=0.5)


async def test_script_that_terminates_its_own_session_fails(server: Server, build: Login) -> None:
    with pytest.raises(TemplateFailed, match="terminated"):
        await run_sql(server, build, ["SELECT pg_terminate_backend(pg_backend_pid())"], timeout_seconds=30)


async def test_sealing_disables_builder_and_terminates_its_sessions(any_server: Server) -> None:
    template_id = uuid4()
    build = await create_build(any_server, template_id, 1, [])
    builder = await connect(any_server, build)
    await builder.execute("CREATE TABLE t (a integer); INSERT INTO t VALUES (1)")
    await builder.execute(f"BEGIN; INSERT INTO t VALUES (2); PREPARE TRANSACTION '{uuid4()}'")
    await builder.execute("BEGIN; INSERT INTO t VALUES (3)")

    sealed = await seal(any_server, template_id, 1)

    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await builder.execute("COMMIT")
    with pytest.raises(
        (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.ObjectNotInPrerequisiteStateError)
    ):
        await connect(any_server, build)
    login = await provision_database(any_server, uuid4(), 1, sealed.database)
    async with connected(any_server, login) as connection:
        assert await connection.fetchval("SELECT array_agg(a) FROM t") == [1]
    assert sealed.size_bytes > 5_000_000


async def test_sealing_is_idempotent(any_server: Server) -> None:
    template = await build_template(any_server, "CREATE TABLE t ()")
    sealed = await seal(any_server, template.id, 1)
    assert sealed.database == template.database


async def test_sealing_resets_properties_that_builder_set(any_server: Server) -> None:
    template_id = uuid4()
    build = await create_build(any_server, template_id, 1, [])
    name = build.database
    await run_sql(
        any_server,
        build,
        [
            f"GRANT ALL ON DATABASE {name} TO PUBLIC",
            f"ALTER DATABASE {name} IS_TEMPLATE true CONNECTION LIMIT 1",
        ],
        timeout_seconds=30,
    )
    await run_sql(any_server, build, [f"COMMENT ON DATABASE {name} IS 'mine'"], timeout_seconds=30)
    async with connected(any_server, replace(build, database="postgres")) as connection:
        await connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    await seal(any_server, template_id, 1)
    async with any_server.maintenance() as connection:
        row = await connection.fetchrow(
            "SELECT datistemplate, datallowconn, datconnlimit, has_database_privilege('public', oid, 'CONNECT'), "
            "shobj_description(oid, 'pg_database'), pg_get_userbyid(datdba) FROM pg_database WHERE datname = $1",
            name,
        )
        assert row is not None
        assert tuple(row) == (False, False, -1, False, any_server.stamp, any_server.role)


async def test_sealing_abandoned_build_is_refused(server: Server) -> None:
    with pytest.raises(BuildLost):
        await seal(server, uuid4(), 1)


async def test_second_builder_of_one_attempt_is_refused(server: Server) -> None:
    template_id = uuid4()
    results = await asyncio.gather(
        *(create_build(server, template_id, 1, []) for _ in range(4)), return_exceptions=True
    )
    winners = [one for one in results if isinstance(one, Login)]
    assert len(winners) == 1
    assert all(isinstance(one, Conflict) for one in results if one is not winners[0])
    async with connected(server, winners[0]) as connection:
        await connection.execute("CREATE TABLE t ()")


async def test_attempts_of_one_template_do_not_touch_each_other(server: Server) -> None:
    template_id = uuid4()
    first = await create_build(server, template_id, 1, [])
    second = await create_build(server, template_id, 2, [])
    await run_sql(server, second, ["CREATE TABLE t ()"], timeout_seconds=30)
    await drop_template(server, template_id, below_attempt=2)
    with pytest.raises(asyncpg.PostgresError):
        await connect(server, first)
    assert (await seal(server, template_id, 2)).database == second.database


async def test_dropped_template_cannot_be_cloned(any_server: Server) -> None:
    template = await build_template(any_server)
    await drop_template(any_server, template.id)
    with pytest.raises(TemplateNotFound):
        await provision_database(any_server, uuid4(), 1, template.database)
    assert await inventory(any_server) == []


async def test_existing_generation_is_not_created_again(any_server: Server) -> None:
    template = await build_template(any_server, "CREATE TABLE t ()")
    database_id = uuid4()
    login = await provision_database(any_server, database_id, 1, template.database)
    with pytest.raises(Conflict):
        await provision_database(any_server, database_id, 1, template.database)
    async with connected(any_server, login) as connection:
        await connection.execute("TABLE t")


async def test_unknown_extension_error_lists_available_extensions(any_server: Server) -> None:
    with pytest.raises(InvalidRequest, match=r'x"; DROP.* it has .*plpgsql') as failure:
        await create_build(any_server, uuid4(), 1, ['x"; DROP DATABASE postgres; --'])
    assert failure.value.extra["errors"]
    assert await inventory(any_server) == []


async def available(server: Server, *wanted: str) -> list[str]:
    async with server.maintenance() as connection:
        rows = await connection.fetch(
            "SELECT name FROM pg_available_extensions WHERE name = ANY ($1)", list(wanted)
        )
    return [row["name"] for row in rows]


async def test_builder_and_holder_have_requested_extensions(server: Server) -> None:
    extensions = await available(server, "vector", "pg_trgm", "citext", "hstore", "earthdistance")
    template_id = uuid4()
    build = await create_build(server, template_id, 1, extensions)
    async with connected(server, build) as connection:
        found = {row[0] for row in await connection.fetch("SELECT extname FROM pg_extension")}
        assert set(extensions) <= found
    sealed = await seal(server, template_id, 1)
    login = await provision_database(server, uuid4(), 1, sealed.database)
    async with connected(server, login) as connection:
        for extension in extensions:
            assert (
                await connection.fetchval(
                    "SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = $1", extension
                )
                == "public"
            )


async def test_trusted_extension_belongs_to_holder_and_others_need_superuser(
    plain_server: Server,
) -> None:
    async with plain_server.maintenance() as connection:
        rows = await connection.fetch(
            "SELECT name, bool_and(trusted) AS trusted FROM pg_available_extension_versions "
            "WHERE name IN ('vector', 'pg_trgm', 'pageinspect') GROUP BY name"
        )
    for row in rows:
        name = row["name"]
        if row["trusted"]:
            template_id = uuid4()
            await create_build(plain_server, template_id, 1, [name])
            sealed = await seal(plain_server, template_id, 1)
            login = await provision_database(plain_server, uuid4(), 1, sealed.database)
            async with connected(plain_server, login) as holder:
                await holder.execute(f"DROP EXTENSION {name}")
        else:
            with pytest.raises(InvalidRequest, match="superuser"):
                await create_build(plain_server, uuid4(), 1, [name])


async def test_parallel_builds_with_extensions_do_not_conflict(server: Server) -> None:
    extensions = await available(server, "vector", "pg_trgm", "citext", "hstore", "uuid-ossp", "pgcrypto")
    templates = [uuid4() for _ in range(8)]
    await asyncio.gather(*(create_build(server, one, 1, extensions) for one in templates))
    sealed = await asyncio.gather(*(seal(server, one, 1) for one in templates))
    assert len({one.database for one in sealed}) == 8


async def test_database_closed_by_its_builder_is_sealed(any_server: Server) -> None:
    template_id = uuid4()
    build = await create_build(any_server, template_id, 1, [])
    async with connected(any_server, build) as connection:
        await connection.execute("CREATE TABLE t (a integer)")
        await connection.execute(f"BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION '{uuid4()}'")
        await connection.execute(f"ALTER DATABASE {build.database} CONNECTION LIMIT 0")
    sealed = await seal(any_server, template_id, 1)
    login = await provision_database(any_server, uuid4(), 1, sealed.database)
    async with connected(any_server, login) as connection:
        assert await connection.fetchval("SELECT count(*) FROM t") == 0
