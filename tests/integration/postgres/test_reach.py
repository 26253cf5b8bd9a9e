"""A holder reaches its own database and no other object."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import uuid4

import asyncpg
import pytest

from freshdb_service.lifecycle import Isolation
from freshdb_service.postgres import (
    Login,
    Server,
    ServerOptions,
    create_build,
    ensure_control_database,
    provision_database,
    run_sql,
)
from tests.integration.postgres.conftest import managed
from tests.integration.postgres.stage import Pool, build_template, connected, pool_of
from tests.servers import PostgresServer, Servers

SEED = "CREATE TABLE t (a integer); INSERT INTO t VALUES (1); GRANT SELECT ON t TO PUBLIC"


@pytest.fixture
async def pools(any_server: Server) -> dict[Isolation, Pool]:
    template = await build_template(any_server, SEED)
    return {isolation: await pool_of(any_server, isolation, template) for isolation in Isolation}


async def refused(server: Server, login: Login, database: str) -> bool:
    try:
        async with connected(server, replace(login, database=database)):
            return False
    except (asyncpg.InsufficientPrivilegeError, asyncpg.ObjectNotInPrerequisiteStateError):
        return True


async def is_denied(connection: asyncpg.Connection[asyncpg.Record], statement: str) -> bool:
    try:
        await connection.execute(statement)
    except asyncpg.InsufficientPrivilegeError:
        return True
    return False


async def test_holder_cannot_connect_to_other_databases_of_freshdb(
    any_server: Server, pools: dict[Isolation, Pool]
) -> None:
    mine = [await pool.provision(uuid4()) for pool in pools.values()]
    others = [await pool.provision(uuid4()) for pool in pools.values()]
    build = await create_build(any_server, uuid4(), 1, [])
    template = pools[Isolation.DATABASE].origin.template_database
    for login in mine:
        forbidden = {other.database for other in others} | {template, build.database}
        for database in sorted(forbidden - {login.database}):
            assert await refused(any_server, login, database), f"{login.user} got into {database}"
    for login in mine:  # and the builder cannot connect to theirs
        assert await refused(any_server, build, login.database)


async def test_holder_of_schema_reaches_nothing_else_in_shared_database(
    any_server: Server, pools: dict[Isolation, Pool]
) -> None:
    pool = pools[Isolation.SCHEMA]
    mine, other = await pool.provision(uuid4()), await pool.provision(uuid4())
    blueprint = pool.origin.blueprint
    assert blueprint is not None
    async with connected(any_server, mine) as connection:
        for statement in (
            f"SELECT * FROM {other.schema}.t",
            f"CREATE TABLE {other.schema}.mine ()",
            f"SELECT * FROM {blueprint.seed_schema}.t",
            f"DROP TABLE {blueprint.seed_schema}.t",
            "CREATE TABLE public.mine ()",
            "CREATE SCHEMA mine",
            "ALTER EXTENSION plpgsql SET SCHEMA public",
            f"ALTER SCHEMA {mine.schema} RENAME TO mine",
            f"ALTER DATABASE {mine.database} SET timezone = 'UTC'",
            f"ALTER ROLE {other.user} PASSWORD 'mine'",
            f"SET ROLE {other.user}",
            f"SET ROLE {blueprint.build_role}",
            f"GRANT {other.user} TO {mine.user}",
            "CREATE ROLE more",
            "CREATE DATABASE more",
        ):
            assert await is_denied(connection, statement), f"{statement} was not refused"
        assert await connection.fetchval("SELECT a FROM t") == 1
        await connection.execute(
            f"GRANT CONNECT ON DATABASE {mine.database} TO PUBLIC"
        )  # a warning, and no effect
        assert not await connection.fetchval(
            "SELECT has_database_privilege('public', current_database(), 'CONNECT')"
        )


async def test_holders_cannot_terminate_or_watch_each_other(
    any_server: Server, pools: dict[Isolation, Pool]
) -> None:
    pool = pools[Isolation.SCHEMA]
    mine, other = await pool.provision(uuid4()), await pool.provision(uuid4())
    async with connected(any_server, mine) as connection, connected(any_server, other) as neighbour:
        pid = neighbour.get_server_pid()
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(f"SELECT pg_terminate_backend({pid})")
        assert (
            await connection.fetchval("SELECT query FROM pg_stat_activity WHERE pid = $1", pid)
            == "<insufficient privilege>"
        )


async def test_holder_cannot_change_objects_outside_its_database(
    any_server: Server, pools: dict[Isolation, Pool]
) -> None:
    pool = pools[Isolation.DATABASE]
    mine, other = await pool.provision(uuid4()), await pool.provision(uuid4())
    async with connected(any_server, mine) as connection:
        for statement in (
            f"ALTER DATABASE {mine.database} RENAME TO mine",
            f"ALTER DATABASE {mine.database} OWNER TO {other.user}",
            f"COMMENT ON ROLE {mine.user} IS 'mine'",
            f"ALTER ROLE {mine.user} CONNECTION LIMIT -1",
            f"ALTER ROLE {mine.user} CREATEDB",
            f"DROP DATABASE {other.database}",
            f"SET ROLE {other.user}",
            f"SET SESSION AUTHORIZATION {other.user}",
            "CREATE DATABASE more",
            "CREATE ROLE more",
            "SELECT pg_read_file('/etc/passwd')",
            "COPY (SELECT 1) TO PROGRAM 'true'",
            "ALTER SYSTEM SET work_mem = '1MB'",
        ):
            assert await is_denied(connection, statement), f"{statement} was not refused"


@pytest.fixture
async def control_database(postgres: PostgresServer) -> AsyncIterator[str]:
    name = f"control_{uuid4().hex[:8]}"
    await ensure_control_database(postgres.dsn, name)
    yield name
    connection = await asyncpg.connect(postgres.dsn)
    await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await connection.close()


async def test_holder_cannot_connect_to_control_database(
    any_server: Server, pools: dict[Isolation, Pool], control_database: str
) -> None:
    for pool in pools.values():
        assert await refused(any_server, await pool.provision(uuid4()), control_database)


async def test_holder_cannot_connect_to_postgres_database_of_hardened_server(
    servers: Servers, options: ServerOptions
) -> None:
    dsn = servers.postgres(18, owner="hardened").dsn
    async with managed(dsn, options) as soft:
        login = await provision_database(soft, uuid4(), 1, (await build_template(soft)).database)
        assert not await refused(soft, login, "template1")
        hard = await Server.open("hard", dsn, installation=soft.installation, options=options, harden=True)
        await hard.close()
        assert await refused(soft, login, "template1")
        assert await refused(soft, login, "postgres")
        assert not await refused(soft, login, login.database)


ESCALATION = """
CREATE FUNCTION sometimes(integer) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RESET ROLE;
    RESET SESSION AUTHORIZATION;
    EXECUTE 'CREATE ROLE {role} SUPERUSER LOGIN';
    RETURN true;
EXCEPTION WHEN insufficient_privilege OR duplicate_object THEN
    RETURN true;
END $$;
CREATE FUNCTION always(integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    EXECUTE 'CREATE ROLE {role} SUPERUSER LOGIN';
    RETURN $1;
EXCEPTION WHEN insufficient_privilege OR duplicate_object OR feature_not_supported THEN
    RETURN $1;
END $$;
CREATE DOMAIN trap AS integer CHECK (sometimes(VALUE));
CREATE TABLE t (
    a integer PRIMARY KEY CHECK (sometimes(a)),
    b trap,
    c integer GENERATED ALWAYS AS (always(a)) STORED
);
CREATE INDEX ON t (always(a));
CREATE VIEW v AS SELECT always(a) AS x FROM t;
CREATE MATERIALIZED VIEW m AS SELECT * FROM v;
INSERT INTO t VALUES (1, 1), (2, 2);
REFRESH MATERIALIZED VIEW m;
"""


async def test_template_code_never_runs_with_rights_of_the_service(
    server: Server, isolation: Isolation
) -> None:
    """Checks, domains, generated columns and indexes call functions, and none of these runs in a superuser's session."""
    role = f"evil_{uuid4().hex[:8]}"
    pool = await pool_of(server, isolation, await build_template(server, ESCALATION.replace("{role}", role)))
    database_id = uuid4()
    await pool.provision(database_id)
    login = (await pool.reset(database_id, 2)).login
    async with connected(server, login) as connection:
        assert await connection.fetchval("SELECT count(*) FROM t") == 2
        assert not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", role)


async def test_settings_left_by_holder_do_not_apply_to_the_service(any_server: Server) -> None:
    """The service connects to a used database (to roll back prepared transactions) with its own settings."""
    template = await build_template(any_server, "CREATE TABLE t (a integer)")
    pool = await pool_of(any_server, Isolation.DATABASE, template)
    database_id = uuid4()
    login = await pool.provision(database_id)
    async with connected(any_server, login) as connection:
        await connection.execute(f"BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION '{uuid4()}'")
        for setting in (
            "statement_timeout = '1ms'",
            "default_transaction_read_only = on",
            "search_path = evil, pg_catalog",
            "client_min_messages = error",
            f"role = {login.user}",
            f"session_authorization = {login.user}",
        ):
            await connection.execute(f"ALTER DATABASE {login.database} SET {setting}")
        await connection.execute("SET default_transaction_read_only = off")
        await connection.execute(f"ALTER ROLE {login.user} SET statement_timeout = '1ms'")
    again = (await pool.reset(database_id, 2)).login
    async with connected(any_server, again) as connection:
        assert await connection.fetchval("SELECT count(*) FROM t") == 0
        assert await connection.fetchval("SHOW statement_timeout") == "0"


async def test_hostile_identifiers_stay_identifiers(server_18: Server) -> None:
    """Identifiers that contain SQL are copied with a schema unchanged."""
    odd = 'x"; DROP TABLE t; --'
    quoted = odd.replace('"', '""')
    template = await build_template(
        server_18,
        f'CREATE TABLE t (a integer); CREATE TABLE "{quoted}" (id serial, "{quoted}" text); '
        f"""INSERT INTO "{quoted}" ("{quoted}") VALUES ('it''s {odd}')""",
    )
    for isolation in Isolation:
        login = await (await pool_of(server_18, isolation, template)).provision(uuid4())
        async with connected(server_18, login) as connection:
            assert await connection.fetchval(f'SELECT "{quoted}" FROM "{quoted}"') == f"it's {odd}"
            assert await connection.fetchval("SELECT count(*) FROM t") == 0


async def test_build_cannot_connect_to_another_template(any_server: Server) -> None:
    one = await create_build(any_server, uuid4(), 1, [])
    other = await create_build(any_server, uuid4(), 1, [])
    await run_sql(any_server, one, ["CREATE TABLE t ()"], timeout_seconds=30)
    assert await refused(any_server, other, one.database)
