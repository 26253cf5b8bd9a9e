"""A holder has the rights of an owner in its database."""

from __future__ import annotations

from uuid import uuid4

import asyncpg
import pytest

from freshdb_service.lifecycle import Isolation
from freshdb_service.postgres import Server
from tests.integration.postgres.stage import EVERYTHING, build_template, connect, connected, pool_of

STATEMENTS = """
INSERT INTO person (mail, state) VALUES ('new@example.org', 'doing')
UPDATE person SET state = 'done' WHERE mail = 'new@example.org'
DELETE FROM person WHERE mail = 'new@example.org'
INSERT INTO event (at, kind, note) VALUES ('2024-05-05', 'todo', 'routed')
INSERT INTO thing (owner_id) VALUES (1)
SELECT count_people()
SELECT * FROM new_style('done')
CALL promote(1)
REFRESH MATERIALIZED VIEW CONCURRENTLY by_state
SELECT setval('ticket', 1)
ALTER SEQUENCE ticket RESTART WITH 7
ALTER TYPE status ADD VALUE 'late'
ALTER DOMAIN email DROP CONSTRAINT email_check
ALTER TABLE person ADD COLUMN extra text DEFAULT 'x'
ALTER TABLE person ALTER COLUMN extra TYPE varchar(10)
ALTER TABLE person RENAME COLUMN extra TO more
ALTER TABLE person ENABLE TRIGGER person_changed
ALTER TABLE event DETACH PARTITION event_2024
CREATE TABLE event_2027 PARTITION OF event FOR VALUES FROM ('2027-01-01') TO ('2028-01-01')
CREATE OR REPLACE FUNCTION count_people() RETURNS bigint LANGUAGE sql AS 'SELECT 42::bigint'
CREATE OR REPLACE VIEW grown_up AS SELECT id, mail, state, 1 AS one FROM person
CREATE INDEX CONCURRENTLY fresh ON person (state)
DROP INDEX person_partial
ALTER TABLE secret NO FORCE ROW LEVEL SECURITY
DROP POLICY own ON secret
TRUNCATE thing RESTART IDENTITY CASCADE
ALTER DEFAULT PRIVILEGES REVOKE SELECT ON TABLES FROM PUBLIC
GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO PUBLIC
CREATE TEMPORARY TABLE passing AS SELECT id FROM person
VACUUM (ANALYZE) person
LOCK TABLE person IN ACCESS EXCLUSIVE MODE
DROP TABLE event, child, parent
DROP MATERIALIZED VIEW by_state
DROP TABLE person, thing CASCADE
DROP TYPE money_amount
DROP FUNCTION is_positive(bigint)
CREATE TABLE person (id integer)
"""

OF_A_DATABASE = """
CREATE SCHEMA more
CREATE TABLE more.t (a integer)
ALTER DATABASE {database} SET timezone = 'UTC'
DROP SCHEMA public CASCADE
CREATE SCHEMA public
"""


async def test_holder_has_owner_rights_on_template_objects(any_server: Server, isolation: Isolation) -> None:
    pool = await pool_of(any_server, isolation, await build_template(any_server, EVERYTHING))
    login = await pool.provision(uuid4())
    statements = STATEMENTS + (OF_A_DATABASE.lstrip() if isolation is Isolation.DATABASE else "")
    async with connected(any_server, login) as connection:
        for line in statements.strip().splitlines():
            statement = line.format(schema=login.schema or "public", database=login.database)
            if statement.startswith("LOCK"):
                async with connection.transaction():
                    await connection.execute(statement)
            else:
                await connection.execute(statement)


async def test_holder_starts_in_its_own_schema(server_18: Server) -> None:
    pool = await pool_of(server_18, Isolation.SCHEMA, await build_template(server_18, "CREATE TABLE t ()"))
    login = await pool.provision(uuid4())
    async with connected(server_18, login) as connection:
        assert await connection.fetchval("SELECT current_schema()") == login.schema
        assert await connection.fetchval("SELECT 't'::regclass::oid::regclass::text") == "t"
        await connection.execute("CREATE TABLE unqualified ()")
        assert (
            await connection.fetchval(
                "SELECT relnamespace::regnamespace::text FROM pg_class WHERE relname = 'unqualified'"
            )
            == login.schema
        )


async def test_holder_has_no_special_rights(any_server: Server, isolation: Isolation) -> None:
    pool = await pool_of(any_server, isolation, await build_template(any_server))
    login = await pool.provision(uuid4())
    async with connected(any_server, login) as connection:
        role = await connection.fetchrow(
            "SELECT rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls, rolcanlogin, rolconnlimit "
            "FROM pg_roles WHERE rolname = current_user"
        )
        assert role is not None
        assert tuple(role) == (False, False, False, False, False, True, any_server.connection_limit)
        assert (
            await connection.fetchval(
                "SELECT count(*) FROM pg_auth_members WHERE member = (SELECT oid FROM pg_roles WHERE rolname = current_user)"
            )
            == 0
        )


async def test_holder_cannot_open_more_connections_than_its_limit(server_18: Server) -> None:
    pool = await pool_of(server_18, Isolation.DATABASE, await build_template(server_18))
    login = await pool.provision(uuid4())
    async with connected(server_18, login) as connection:
        limit = await connection.fetchval("SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user")
        more = [await connect(server_18, login) for _ in range(limit - 1)]
        with pytest.raises(asyncpg.TooManyConnectionsError):
            await connect(server_18, login)
        for one in more:
            await one.close()


async def test_password_is_required_and_stored_as_verifier(server: Server) -> None:
    pool = await pool_of(server, Isolation.DATABASE, await build_template(server))
    login = await pool.provision(uuid4())
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(
            host=server.host, port=server.port, user=login.user, password="guess", database=login.database
        )
    async with server.maintenance() as connection:
        stored = await connection.fetchval("SELECT rolpassword FROM pg_authid WHERE rolname = $1", login.user)
    assert stored.startswith("SCRAM-SHA-256$4096:")
    assert login.password not in repr(login)


async def test_holder_can_create_and_drop_a_trusted_extension(any_server: Server) -> None:
    async with any_server.maintenance() as connection:
        extension = await connection.fetchval(
            "SELECT name FROM pg_available_extensions WHERE name IN ('vector', 'pg_trgm') ORDER BY name DESC"
        )
    pool = await pool_of(any_server, Isolation.DATABASE, await build_template(any_server))
    login = await pool.provision(uuid4())
    trusted = {"vector": False, "pg_trgm": True}
    async with any_server.maintenance() as connection:
        trusted[extension] = await connection.fetchval(
            "SELECT bool_and(trusted) FROM pg_available_extension_versions WHERE name = $1", extension
        )
    async with connected(any_server, login) as connection:
        if not trusted[extension]:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(f"CREATE EXTENSION {extension}")
        else:
            await connection.execute(f"CREATE EXTENSION {extension}")
            await connection.execute(f"DROP EXTENSION {extension}")
