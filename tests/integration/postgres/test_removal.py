"""Objects of freshdb can always be dropped, whatever a holder did to them. Similar objects of others are never touched."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import pytest

from freshdb_service.lifecycle import Isolation
from freshdb_service.postgres import (
    OwnedObject,
    Server,
    ServerOptions,
    create_build,
    database_sizes,
    drop_database,
    drop_owned,
    drop_schema,
    drop_shared,
    drop_template,
    foreign_databases,
    inventory,
    prepare_shared,
    provision_database,
    provision_schema,
)
from freshdb_service.postgres.names import Kind
from tests.integration.postgres.stage import EVERYTHING, build_template, connect, connected, pool_of
from tests.servers import PostgresServer


def names(objects: list[OwnedObject]) -> set[tuple[str, str]]:
    return {(one.kind, str(one.name)) for one in objects}


async def test_dropping_missing_object_does_nothing(any_server: Server) -> None:
    await drop_database(any_server, uuid4())
    await drop_schema(any_server, uuid4(), "no_such_database")
    await drop_shared(any_server, uuid4())
    await drop_template(any_server, uuid4())
    await drop_owned(any_server, OwnedObject("database", any_server.name_of(Kind.DATABASE, uuid4(), 1), 1))


async def test_objects_are_dropped_while_clients_are_connected(
    any_server: Server, isolation: Isolation
) -> None:
    template = await build_template(any_server, EVERYTHING)
    pool = await pool_of(any_server, isolation, template)
    databases = [uuid4(), uuid4()]
    holders = [await connect(any_server, await pool.provision(one)) for one in databases]
    for holder in holders:
        await holder.execute(
            "BEGIN; SELECT lo_from_bytea(0, 'x'); CREATE TEMPORARY TABLE x (); LOCK TABLE person"
        )
    await pool.drop(databases[0])
    if isolation is Isolation.SCHEMA:
        await drop_shared(any_server, pool.id)
    else:
        await pool.drop(databases[1])
    await drop_template(any_server, template.id)
    assert await inventory(any_server) == []
    for holder in holders:
        holder.terminate()


async def test_only_lower_generations_are_dropped(server: Server, isolation: Isolation) -> None:
    pool = await pool_of(server, isolation, await build_template(server))
    database_id = uuid4()
    logins = {generation: await pool.provision(database_id, generation) for generation in (1, 2, 10)}
    if pool.origin.blueprint is None:
        await drop_database(server, database_id, below_generation=10)
    else:
        await drop_schema(server, database_id, pool.origin.blueprint.shared_database, below_generation=10)
    left = {str(one.name) for one in await inventory(server) if one.belongs_to(database_id)}
    assert left == {logins[10].user}
    async with connected(server, logins[10]):
        pass


async def test_only_lower_attempts_are_dropped(server: Server) -> None:
    template_id = uuid4()
    for attempt in (1, 2):
        await create_build(server, template_id, attempt, [])
    await drop_template(server, template_id, below_attempt=2)
    assert {one.name.counter for one in await inventory(server)} == {2}


async def test_database_is_dropped_whatever_its_owner_changed(any_server: Server) -> None:
    pool = await pool_of(
        any_server, Isolation.DATABASE, await build_template(any_server, "CREATE TABLE t (a integer)")
    )
    database_id = uuid4()
    login = await pool.provision(database_id)
    async with connected(any_server, login) as connection:
        await connection.execute(f"BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION '{uuid4()}'")
        for statement in (
            "COMMENT ON DATABASE {0} IS NULL",
            "ALTER DATABASE {0} IS_TEMPLATE true",
            "ALTER DATABASE {0} CONNECTION LIMIT 0",
            "GRANT ALL ON DATABASE {0} TO PUBLIC",
        ):
            await connection.execute(statement.format(login.database))
    async with connected(any_server, replace(login, database="postgres")) as connection:
        await connection.execute(f"ALTER DATABASE {login.database} ALLOW_CONNECTIONS false")
    assert ("database", login.database) in names(await inventory(any_server))
    await drop_database(any_server, database_id)
    assert not [one for one in await inventory(any_server) if one.belongs_to(database_id)]


async def test_database_dropped_by_its_owner_is_reset(server: Server) -> None:
    pool = await pool_of(server, Isolation.DATABASE, await build_template(server, "CREATE TABLE t ()"))
    database_id = uuid4()
    login = await pool.provision(database_id)
    await server.sessions.close_idle(login.database)  # an open session of the service would prevent the drop
    async with connected(server, replace(login, database="postgres")) as connection:
        await connection.execute(f"DROP DATABASE {login.database}")
    async with connected(server, (await pool.reset(database_id, 2)).login) as connection:
        await connection.execute("TABLE t")


async def test_schema_dropped_by_its_owner_is_reset(any_server: Server) -> None:
    pool = await pool_of(any_server, Isolation.SCHEMA, await build_template(any_server, "CREATE TABLE t ()"))
    database_id = uuid4()
    login = await pool.provision(database_id)
    async with connected(any_server, login) as connection:
        await connection.execute(f"COMMENT ON SCHEMA {login.schema} IS NULL")
        await connection.execute(
            f"DROP SCHEMA {login.schema} CASCADE; SELECT lo_from_bytea(0, 'left behind')"
        )
    async with connected(any_server, (await pool.reset(database_id, 2)).login) as connection:
        await connection.execute("TABLE t")
        assert await connection.fetchval("SELECT count(*) FROM pg_largeobject_metadata") == 0


async def test_login_with_privileges_from_other_lease_is_dropped(any_server: Server) -> None:
    """A grant or a policy that names a role prevents its drop. A holder must not prevent the drop of another login."""
    pool = await pool_of(
        any_server, Isolation.DATABASE, await build_template(any_server, "CREATE TABLE t (a integer)")
    )
    mine, other = uuid4(), uuid4()
    login, neighbour = await pool.provision(mine), await pool.provision(other)
    async with connected(any_server, neighbour) as connection:
        await connection.execute(
            f"GRANT SELECT ON t TO {login.user}; ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {login.user}; "
            f"CREATE POLICY p ON t TO {login.user}; GRANT CONNECT ON DATABASE {neighbour.database} TO {login.user}; "
            f"ALTER DATABASE {neighbour.database} CONNECTION LIMIT 0"
        )
    new = (await pool.reset(mine, 2)).login
    assert {str(one.name) for one in await inventory(any_server) if one.belongs_to(mine)} == {new.user}
    async with connected(any_server, neighbour) as connection:
        assert await connection.fetchval("SELECT count(*) FROM t") == 0


@pytest.fixture
async def lookalikes(postgres: PostgresServer) -> AsyncIterator[tuple[UUID, set[str]]]:
    """Roles and databases with names like freshdb's, without a stamp, or with the stamp of another installation."""
    database_id = uuid4()
    token = database_id.hex[-12:]
    stamps = {1: None, 2: f"freshdb:{uuid4()}", 3: "freshdb:", 4: "just a note"}
    connection = await asyncpg.connect(postgres.dsn)
    made = set()
    for number, stamp in stamps.items():
        name = f"freshdb_d_{token}_{number}"
        made.add(name)
        await connection.execute(f"CREATE ROLE {name} LOGIN")
        await connection.execute(f"CREATE DATABASE {name} OWNER {name}")
        if stamp:
            await connection.execute(
                f"COMMENT ON ROLE {name} IS '{stamp}'; COMMENT ON DATABASE {name} IS '{stamp}'"
            )
    yield database_id, made
    for name in made:
        await connection.execute(f"DROP DATABASE {name}")
        await connection.execute(f"DROP ROLE {name}")
    await connection.close()


async def test_similar_objects_of_others_are_never_touched(
    any_server: Server, lookalikes: tuple[UUID, set[str]], postgres: PostgresServer
) -> None:
    database_id, made = lookalikes
    assert not [one for one in await inventory(any_server) if one.belongs_to(database_id)]
    assert made <= set(await foreign_databases(any_server))
    async with any_server.maintenance() as connection:
        oids = {
            row["datname"]: row["oid"]
            for row in await connection.fetch(
                "SELECT oid, datname FROM pg_database WHERE datname = ANY ($1)", list(made)
            )
        }
    await drop_database(any_server, database_id)
    for number in (1, 2, 3, 4):
        name = any_server.name_of(Kind.DATABASE, database_id, number)
        await drop_owned(any_server, OwnedObject("database", name, oids[str(name)]))
        await drop_owned(any_server, OwnedObject("role", name, 0))
    connection = await asyncpg.connect(postgres.dsn)
    there = await connection.fetch(
        "SELECT datname FROM pg_database JOIN pg_roles ON rolname = datname AND rolcanlogin WHERE datname = ANY ($1)",
        list(made),
    )
    await connection.close()
    assert {row["datname"] for row in there} == made


async def test_stamped_object_with_foreign_name_is_left_alone(server: Server) -> None:
    name = f"accounts_{uuid4().hex[:8]}"
    async with server.maintenance() as connection:
        await connection.execute(f"CREATE DATABASE {name}")
        await connection.execute(f"COMMENT ON DATABASE {name} IS '{server.stamp}'")
        try:
            assert await inventory(server) == []
            assert name in await foreign_databases(server)
        finally:
            await connection.execute(f"DROP DATABASE {name}")


async def test_installations_on_one_server_do_not_see_each_other(
    postgres_18: PostgresServer, server_18: Server, options: ServerOptions
) -> None:
    template = await build_template(server_18)
    database_id = uuid4()
    await provision_database(server_18, database_id, 1, template.database)
    other = await Server.open("other", postgres_18.dsn, installation=uuid4(), options=options)
    try:
        assert await inventory(other) == []
        await drop_database(other, database_id)
        await drop_template(other, template.id)
        for owned in await inventory(server_18):
            await drop_owned(other, owned)
        assert sum((await database_sizes(other)).values()) == 0
    finally:
        await other.close()
    assert len(await inventory(server_18)) == 4


async def test_objects_of_dead_worker_are_found_and_dropped(any_server: Server) -> None:
    """A role without its database, and a database without a stamp, which its owner identifies."""
    alone, unstamped = (any_server.name_of(Kind.DATABASE, uuid4(), 1) for _ in range(2))
    member = (
        ""
        if any_server.is_superuser
        else f"; GRANT {unstamped} TO CURRENT_USER; GRANT {alone} TO CURRENT_USER"
    )
    async with any_server.maintenance() as connection:
        for name in (alone, unstamped):
            await connection.execute(
                f"CREATE ROLE {name} LOGIN; COMMENT ON ROLE {name} IS '{any_server.stamp}'"
            )
        await connection.execute(f"SELECT 1{member}")
        await connection.execute(f"CREATE DATABASE {unstamped} OWNER {unstamped} ALLOW_CONNECTIONS false")
    found = await inventory(any_server)
    assert names(found) == {("role", str(alone)), ("role", str(unstamped)), ("database", str(unstamped))}
    for owned in found:
        await drop_owned(any_server, owned)
    assert await inventory(any_server) == []


async def test_incomplete_shared_database_is_recreated(server: Server) -> None:
    template = await build_template(server, "CREATE TABLE t ()")
    pool_id = uuid4()
    name = server.name_of(Kind.SHARED, pool_id)
    async with server.maintenance() as connection:
        await connection.execute(f"CREATE ROLE {name}; COMMENT ON ROLE {name} IS '{server.stamp}'")
        await connection.execute(f"CREATE DATABASE {name} OWNER {name}")
    blueprint = await prepare_shared(server, pool_id, template.database)
    assert "CREATE TABLE" in blueprint.before
    assert await prepare_shared(server, pool_id, template.database) == blueprint


async def test_trial_schema_is_part_of_shared_database(server: Server) -> None:
    """The reconciler must not drop it while the preparation uses it."""
    pool = await pool_of(server, Isolation.SCHEMA, await build_template(server))
    assert pool.origin.blueprint is not None
    before = await inventory(server)
    login = await provision_schema(server, pool.id, 0, pool.origin.blueprint)
    assert set(await inventory(server)) == set(before)
    await drop_shared(server, pool.id)
    async with server.maintenance() as connection:
        assert not await connection.fetchval("SELECT count(*) FROM pg_roles WHERE rolname = $1", login.user)


async def test_object_replaced_after_listing_is_left_alone(server: Server) -> None:
    template = await build_template(server)
    database_id = uuid4()
    await provision_database(server, database_id, 1, template.database)
    listed = [one for one in await inventory(server) if one.belongs_to(database_id)]
    await drop_database(server, database_id)
    await provision_database(server, database_id, 1, template.database)
    for owned in listed:
        await drop_owned(server, owned)
    assert len([one for one in await inventory(server) if one.belongs_to(database_id)]) == 2


async def test_inventory_lists_all_objects_of_installation(server: Server) -> None:
    template = await build_template(server)
    pool = await pool_of(server, Isolation.SCHEMA, template)
    login = await pool.provision(uuid4())
    found = names(await inventory(server))
    shared = login.database
    assert found == {
        ("database", template.database),
        ("role", template.database),
        ("database", shared),
        ("role", shared),
        ("role", shared.replace("_h_", "_r_")),
        ("role", login.user),
        ("schema", str(login.schema)),
    }
    assert sum((await database_sizes(server)).values()) > 10_000_000


async def test_passwords_are_in_no_message(postgres_18: PostgresServer, server_18: Server) -> None:
    password = str(urlsplit(postgres_18.dsn).password)
    assert password not in repr(server_18)
    assert password not in repr(vars(server_18)["_address"])
