"""Extensions of a template: their schema and version, the rights that they bring, and those that they must not bring."""

from __future__ import annotations

from uuid import uuid4

import asyncpg
import pytest

from freshdb_service.errors import InvalidRequest, IsolationUnsupported, TemplateFailed
from freshdb_service.lifecycle import Isolation
from freshdb_service.postgres import (
    ExtensionForm,
    Server,
    ServerOptions,
    create_build,
    inventory,
    provision_database,
    run_sql,
)
from tests.integration.postgres.conftest import managed, plain_role
from tests.integration.postgres.stage import build_template, connected, pool_of
from tests.servers import PostgresServer

SCHEMA = "SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = $1"
PLACE = """
SELECT n.nspname, e.extversion, pg_get_userbyid(n.nspowner) = current_user
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = $1
"""


@pytest.mark.parametrize("role", ["superuser", "plain"])
async def test_extension_has_the_schema_and_version_of_the_template(
    postgres_15: PostgresServer, options: ServerOptions, role: str
) -> None:
    async with plain_role(postgres_15.dsn) as plain:
        dsn = plain if role == "plain" else postgres_15.dsn
        async with managed(dsn, options) as server:
            form: ExtensionForm = {"name": "hstore", "schema": "extensions", "version": "1.7"}
            template = await build_template(
                server, "CREATE TABLE t AS SELECT 'a=>1'::extensions.hstore AS h", extensions=[form]
            )
            login = await provision_database(server, uuid4(), 1, template.database)
            async with connected(server, login) as holder:
                assert tuple(await holder.fetchrow(PLACE, "hstore") or ()) == ("extensions", "1.7", True)
                assert await holder.fetchval("SELECT h::text FROM t") == '"a"=>"1"'


async def test_existing_schema_keeps_its_owner(server: Server) -> None:
    name = "hstore" if server.version < 160000 else "vector"
    build = await create_build(server, uuid4(), 1, [{"name": name, "schema": "public"}])
    async with connected(server, build) as connection:
        assert await connection.fetchval(SCHEMA, name) == "public"


async def test_missing_version_error_lists_the_versions(any_server: Server) -> None:
    with pytest.raises(
        InvalidRequest, match=r"does not have version 0\.7 of the extension plpgsql: it has 1\.0"
    ) as failure:
        await create_build(any_server, uuid4(), 1, [{"name": "plpgsql", "version": "0.7"}])
    assert failure.value.extra["errors"]
    assert await inventory(any_server) == []


async def test_installed_extension_in_another_schema_is_an_error(any_server: Server) -> None:
    with pytest.raises(InvalidRequest, match=r"plpgsql is installed in the schema pg_catalog"):
        await create_build(any_server, uuid4(), 1, [{"name": "plpgsql", "schema": "extensions"}])
    assert await inventory(any_server) == []


async def test_extension_named_twice_with_different_schemas_is_an_error(server: Server) -> None:
    twice: list[ExtensionForm] = ["vector", {"name": "vector", "schema": "extensions"}]
    with pytest.raises(InvalidRequest, match="vector is named twice"):
        await create_build(server, uuid4(), 1, twice)


async def test_required_extension_is_installed_first_in_its_own_schema(
    postgres_15: PostgresServer, options: ServerOptions
) -> None:
    async with managed(postgres_15.dsn, options) as server:
        forms: list[ExtensionForm] = ["earthdistance", {"name": "cube", "schema": "extensions"}]
        build = await create_build(server, uuid4(), 1, forms)
        async with connected(server, build) as connection:
            assert await connection.fetchval(SCHEMA, "cube") == "extensions"
            assert await connection.fetchval(SCHEMA, "earthdistance") == "public"


async def test_extension_that_a_builder_may_not_create_gets_a_hint(
    postgres_15: PostgresServer, options: ServerOptions
) -> None:
    async with managed(postgres_15.dsn, options) as server:
        build = await create_build(server, uuid4(), 1, [])
        with pytest.raises(TemplateFailed) as failure:
            await run_sql(server, build, ["CREATE EXTENSION pageinspect"], timeout_seconds=30)
        assert "name it in extensions" in str(failure.value.extra["hint"])


async def test_builder_and_holder_use_postgres_fdw_and_no_other_wrapper(
    postgres_15: PostgresServer, options: ServerOptions
) -> None:
    """The holder has the builder's user mapping, with its password."""
    async with managed(postgres_15.dsn, options) as server:
        template = await build_template(
            server,
            "CREATE SERVER other FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', dbname 'x');"
            "CREATE USER MAPPING FOR CURRENT_USER SERVER other OPTIONS (user 'a', password 'it''s, secret')",
            extensions=["postgres_fdw", "file_fdw", "dblink"],
        )
        login = await provision_database(server, uuid4(), 1, template.database)
        async with connected(server, login) as holder:
            mapping = await holder.fetchval(
                "SELECT umoptions FROM pg_user_mappings WHERE usename = current_user"
            )
            assert mapping == ["user=a", "password=it's, secret"]
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="file_fdw"):
                await holder.execute("CREATE SERVER files FOREIGN DATA WRAPPER file_fdw")
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="dblink_connect_u"):
                await holder.fetch("SELECT dblink_connect_u('dbname=postgres')")


async def test_function_that_an_author_adds_to_an_extension_runs_in_no_session_of_the_service(
    postgres_15: PostgresServer, options: ServerOptions
) -> None:
    async with managed(postgres_15.dsn, options) as server:
        template = await build_template(
            server,
            "CREATE FUNCTION f(a integer) RETURNS boolean LANGUAGE sql AS 'SELECT a > 0';"
            "ALTER EXTENSION citext ADD FUNCTION f(integer);"
            "CREATE TABLE t (a integer CHECK (f(a))); INSERT INTO t VALUES (1), (2)",
            extensions=["citext"],
        )
        pool = await pool_of(server, Isolation.DATABASE, template)
        database_id = uuid4()
        login = await pool.provision(database_id)
        async with connected(server, login) as holder:
            await holder.execute("UPDATE t SET a = 3 WHERE a = 2")
        outcome = await pool.reset(database_id, 2)
        assert (outcome.path, "functions of the template's author" in outcome.reason) == ("rebuild", True)


async def test_schema_lease_reads_an_extension_in_a_schema_of_its_own(server: Server) -> None:
    name, cast = ("hstore", "'a=>1'") if server.version < 160000 else ("vector", "'[1,2]'")
    sql = f"CREATE TABLE t AS SELECT {cast}::extensions.{name} AS value"
    template = await build_template(server, sql, extensions=[{"name": name, "schema": "extensions"}])
    pool = await pool_of(server, Isolation.SCHEMA, template)
    login = await pool.provision(uuid4())
    async with connected(server, login) as holder:
        assert await holder.fetchval(f"SELECT value::text = ({cast}::extensions.{name})::text FROM t")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await holder.execute("CREATE TABLE extensions.mine ()")


async def test_table_of_the_template_beside_an_extension_is_refused_as_a_schema(server: Server) -> None:
    name = "hstore" if server.version < 160000 else "vector"
    sql = "CREATE TABLE extensions.t (a integer)"
    template = await build_template(server, sql, extensions=[{"name": name, "schema": "extensions"}])
    with pytest.raises(IsolationUnsupported, match="the schema extensions"):
        await pool_of(server, Isolation.SCHEMA, template)
