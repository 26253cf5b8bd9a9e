"""Wrong servers: on the deny list, with databases of others, or at the address of another server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import pytest

from freshdb_service.embedded import EmbeddedPostgres
from freshdb_service.errors import BackendUnavailable, ServerRefused
from freshdb_service.lifecycle import Isolation
from freshdb_service.postgres import (
    OwnedObject,
    Server,
    ServerOptions,
    close_control_database,
    drop_database,
    drop_owned,
    drop_template,
    ensure_control_database,
    foreign_databases,
    inventory,
    provision_database,
)
from freshdb_service.postgres.names import Kind
from tests.integration.postgres.stage import build_template, pool_of
from tests.servers import PostgresServer
from tests.services import with_database


async def opened(dsn: str, *deny: str, name: str = "main") -> Server:
    return await Server.open(name, dsn, installation=uuid4(), options=ServerOptions(deny=deny))


async def test_each_denied_name_refuses_server(postgres: PostgresServer) -> None:
    database = f"live_{uuid4().hex[:8]}"
    superuser = await asyncpg.connect(postgres.dsn)
    await superuser.execute(f"CREATE DATABASE {database}")
    try:
        for pattern, said in (
            ("ma?n", "its name main"),
            ("127.0.0.1", "its host 127.0.0.1"),
            ("127.0.0.0/8", "its host 127.0.0.1"),
            ("live", f"its database {database}"),
        ):
            with pytest.raises(ServerRefused, match="FRESHDB_DENY") as refusal:
                await opened(postgres.dsn, pattern)
            assert said in refusal.value.message
        with pytest.raises(ServerRefused, match="its database"):
            await ensure_control_database(postgres.dsn, "control", options=ServerOptions(deny=("live",)))
        with pytest.raises(ServerRefused, match="its database"):
            await close_control_database(
                with_database(postgres.dsn, database), options=ServerOptions(deny=("live",))
            )
        assert not await superuser.fetchval("SELECT count(*) FROM pg_database WHERE datname = 'control'")
        await (await opened(postgres.dsn, "elsewhere", "10.0.0.0/8", "nowhere.invalid")).close()
    finally:
        await superuser.execute(f"DROP DATABASE {database}")
        await superuser.close()


async def test_server_with_databases_of_others_is_refused(
    postgres_18: PostgresServer,
) -> None:
    name, others = f"control_{uuid4().hex[:8]}", f"accounts_{uuid4().hex[:8]}"
    superuser = await asyncpg.connect(postgres_18.dsn)
    await superuser.execute(f"CREATE DATABASE {others}")
    try:
        with pytest.raises(ServerRefused, match="--adopt main"):
            await ensure_control_database(postgres_18.dsn, name, unless_shared="main")
        assert not await superuser.fetchval("SELECT count(*) FROM pg_database WHERE datname = $1", name)
        await ensure_control_database(postgres_18.dsn, name)
        await ensure_control_database(postgres_18.dsn, name, unless_shared="main")  # it exists already
        await superuser.execute(f"DROP DATABASE {name}")
    finally:
        await superuser.execute(f"DROP DATABASE {others}")
        await superuser.close()


async def test_existing_control_database_is_closed_to_holders(postgres: PostgresServer) -> None:
    name = f"control_{uuid4().hex[:8]}"
    superuser = await asyncpg.connect(postgres.dsn)
    await superuser.execute(f"CREATE DATABASE {name}")
    allowed = "SELECT has_database_privilege('public', $1, 'CONNECT')"
    try:
        await asyncio.gather(
            *(
                close_control_database(with_database(postgres.dsn, name), options=ServerOptions())
                for _ in range(4)
            )
        )
        assert not await superuser.fetchval(allowed, name)
        await close_control_database(postgres.dsn, options=ServerOptions())
        assert await superuser.fetchval(
            allowed, "postgres"
        )  # PUBLIC may still connect to it, and a warning is logged
    finally:
        await superuser.execute(f"DROP DATABASE {name}")
        await superuser.close()


def lookalikes(server: Server, database_id: UUID) -> dict[str, str | None]:
    """Names similar to freshdb's, each with its stamp."""
    name = str(server.name_of(Kind.DATABASE, database_id, 3))
    return {
        name: None,
        name.replace("_3", "_4"): f"freshdb:{uuid4()}",
        name.replace("_3", "_5"): server.stamp + " ",
        name.upper(): server.stamp,
        name.replace("e", "е"): server.stamp,  # noqa: RUF001 - Cyrillic, which is the point
        f"{name}_old": server.stamp,
        f"x{name}": server.stamp,
        name.replace("_3", "_03"): server.stamp,
        name.replace("_d_", "_x_"): server.stamp,
    }


@pytest.fixture
async def nearly_ours(any_server: Server, postgres: PostgresServer) -> AsyncIterator[tuple[UUID, list[str]]]:
    database_id = uuid4()
    made = lookalikes(any_server, database_id)
    superuser = await asyncpg.connect(postgres.dsn)
    for name, stamp in made.items():
        await superuser.execute(f'CREATE ROLE "{name}" LOGIN; COMMENT ON ROLE "{name}" IS {_or_null(stamp)}')
        await superuser.execute(f'CREATE DATABASE "{name}" OWNER "{name}"')
        await superuser.execute(f'COMMENT ON DATABASE "{name}" IS {_or_null(stamp)}')
    yield database_id, list(made)
    for name in made:
        await superuser.execute(f'DROP DATABASE "{name}"')
        await superuser.execute(f'DROP ROLE "{name}"')
    await superuser.close()


def _or_null(stamp: str | None) -> str:
    return "NULL" if stamp is None else f"'{stamp}'"


async def test_similar_names_and_stamps_are_left_alone(
    any_server: Server, nearly_ours: tuple[UUID, list[str]], postgres: PostgresServer
) -> None:
    database_id, made = nearly_ours
    assert not [one for one in await inventory(any_server) if one.belongs_to(database_id)]
    assert set(made) <= set(await foreign_databases(any_server))
    await drop_database(any_server, database_id)
    superuser = await asyncpg.connect(postgres.dsn)
    rows = await superuser.fetch(
        "SELECT d.oid AS database, r.oid AS role, datname FROM pg_database d JOIN pg_roles r ON rolname = datname "
        "WHERE datname = ANY ($1)",
        made,
    )
    for row in rows:  # even if a caller passes it as freshdb's own
        name = any_server.name_of(Kind.DATABASE, database_id, 3)
        await drop_owned(any_server, OwnedObject("database", name, row["database"]))
        await drop_owned(any_server, OwnedObject("role", name, row["role"]))
    left = await superuser.fetch(
        "SELECT datname FROM pg_database JOIN pg_roles ON rolname = datname AND rolcanlogin WHERE datname = ANY ($1)",
        made,
    )
    await superuser.close()
    assert {row["datname"] for row in left} == set(made)


async def test_renamed_database_is_left_alone(server: Server) -> None:
    """A database that its owner renamed is left alone, and its owner cannot be dropped until it has another owner."""
    template = await build_template(server, "CREATE TABLE t (a integer)")
    pool = await pool_of(server, Isolation.DATABASE, template)
    database_id = uuid4()
    login = await pool.provision(database_id)
    async with server.inside(login.database) as connection:
        await connection.execute("INSERT INTO public.t VALUES (1)")
    await server.sessions.close_idle(login.database)
    aside = f"aside_{uuid4().hex[:8]}"
    async with server.maintenance() as connection:
        await connection.execute(f"ALTER DATABASE {login.database} RENAME TO {aside}")
        try:
            with pytest.raises(BackendUnavailable, match=f"another owner.*owner of database {aside}"):
                await pool.reset(database_id, 2)
            assert aside in await foreign_databases(server)
            await connection.execute(f"ALTER DATABASE {aside} OWNER TO CURRENT_USER")
            async with server.inside(aside) as inside:
                assert await inside.fetchval("SELECT count(*) FROM public.t") == 1
                await inside.execute(f"REASSIGN OWNED BY {login.user.rpartition('_')[0]}_0 TO CURRENT_USER")
            await pool.reset(database_id, 2)
            assert aside in await foreign_databases(server)
        finally:
            await connection.execute(f"DROP DATABASE {aside}")


async def test_objects_of_others_that_depend_on_leftovers_stay(
    server: Server, postgres: PostgresServer
) -> None:
    """In a database of others, only the objects of the login itself are dropped."""
    pool = await pool_of(server, Isolation.DATABASE, await build_template(server))
    database_id = uuid4()
    login = await pool.provision(database_id)
    others = f"accounts_{uuid4().hex[:8]}"
    superuser = await asyncpg.connect(postgres.dsn)
    await superuser.execute(f"CREATE DATABASE {others}")
    inside = await asyncpg.connect(with_database(postgres.dsn, others))
    try:
        await inside.execute(
            f"GRANT CREATE ON SCHEMA public TO PUBLIC; SET ROLE {login.user}; CREATE TYPE bait AS (a integer); "
            "RESET ROLE; CREATE TABLE account (b bait); INSERT INTO account VALUES (row(1)); CREATE TABLE other ()"
        )
        with pytest.raises(BackendUnavailable, match=f"another owner.*in the database {others}, .*account"):
            await pool.drop(database_id)
        assert await inside.fetchval("SELECT count(b) FROM account") == 1
        await inside.execute("DROP TABLE account")
        await pool.drop(database_id)
        assert await inside.fetchval("SELECT to_regtype('bait')") is None
        assert await inside.fetchval("SELECT to_regclass('other')") is not None
    finally:
        await inside.close()
        await superuser.execute(f"DROP DATABASE {others}")
        await superuser.close()


async def test_server_with_other_identity_is_left_alone(
    tmp_path_factory: pytest.TempPathFactory, postgres_18: PostgresServer
) -> None:
    """The other server even holds stamped objects, as a copy of the right server does."""
    del postgres_18  # started before the next two servers
    root = tmp_path_factory.mktemp("servers")
    root.chmod(0o711)
    ours = EmbeddedPostgres(root / "ours")
    dsn = await ours.start()
    port = urlsplit(dsn).port
    assert port is not None
    server = await opened(dsn)
    theirs = EmbeddedPostgres(root / "theirs", port=port)
    try:
        template = await build_template(server, "CREATE TABLE t (a integer)")
        database_id = uuid4()
        login = await provision_database(server, database_id, 1, template.database)
        await ours.stop()
        password = urlsplit(dsn).password
        there = await theirs.start()
        superuser = await asyncpg.connect(there)
        await superuser.execute(f"ALTER ROLE freshdb PASSWORD '{password}'")
        await superuser.execute(
            f"CREATE ROLE {login.user} LOGIN; COMMENT ON ROLE {login.user} IS '{server.stamp}'"
        )
        await superuser.execute(f"CREATE DATABASE {login.database} OWNER {login.user}")
        for attempt in (
            drop_database(server, database_id),
            drop_template(server, template.id),
            provision_database(server, uuid4(), 1, template.database),
            inventory(server),
            server.ping(),
        ):
            with pytest.raises(BackendUnavailable, match="another PostgreSQL server answers"):
                await attempt
        with pytest.raises(BackendUnavailable, match="another PostgreSQL server answers"):
            async with server.inside(login.database):
                pass
        with pytest.raises(BackendUnavailable, match="another PostgreSQL server answers"):
            await server.open_session(login.database)
        assert await superuser.fetchval("SELECT rolcanlogin FROM pg_roles WHERE rolname = $1", login.user)
        assert await superuser.fetchval("SELECT count(*) FROM pg_database WHERE datname = $1", login.database)
        await superuser.close()
        await theirs.stop()
        await EmbeddedPostgres(root / "ours", port=port).start()  # the right server is back
        await drop_database(server, database_id)
        await drop_template(server, template.id)
        assert await inventory(server) == []
    finally:
        await server.close()
        await theirs.stop()
        await ours.stop()
