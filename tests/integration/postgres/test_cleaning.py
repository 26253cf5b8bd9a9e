"""Resets in place: the path for each kind of change, and a result that equals the template."""

from __future__ import annotations

from uuid import uuid4

import asyncpg
import psycopg
import pytest

from freshdb_service.lifecycle import Isolation
from freshdb_service.postgres import Login, Server
from tests.integration.postgres.stage import Pool, build_template, connected, pool_of
from tests.servers import PostgresServer

TEMPLATE = """
CREATE TABLE customer (id bigserial PRIMARY KEY, name text NOT NULL);
CREATE TABLE purchase (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer_id bigint NOT NULL REFERENCES customer,
                       note text);
CREATE TABLE fruit (id serial PRIMARY KEY, name text UNIQUE, price numeric,
                    label text GENERATED ALWAYS AS (upper(name)) STORED);
INSERT INTO fruit (name, price) VALUES ('apple', 1), ('pear', 2.50), (E'tab\\tand\\nline', NULL);
CREATE TABLE many (id integer PRIMARY KEY);
INSERT INTO many SELECT generate_series(1, 12000);
CREATE FUNCTION odd (integer) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT $1 % 2 = 1';
CREATE TABLE checked (a integer CHECK (odd (a)));
INSERT INTO checked VALUES (1), (3);
CREATE TABLE bulky (id bigserial PRIMARY KEY, note text);
CREATE TABLE watched (a integer, bulky_id bigint REFERENCES bulky);
CREATE FUNCTION nothing () RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END';
CREATE TRIGGER watch BEFORE DELETE ON watched FOR EACH ROW EXECUTE FUNCTION nothing ();
CREATE TRIGGER watch_all BEFORE TRUNCATE ON watched EXECUTE FUNCTION nothing ();
ALTER TABLE watched ENABLE ALWAYS TRIGGER watch;
ALTER TABLE watched ENABLE ALWAYS TRIGGER watch_all;
CREATE MATERIALIZED VIEW prices AS SELECT sum(price) AS total FROM fruit;
CREATE SEQUENCE ticket START 100;
SELECT setval('ticket', 500);
"""

PATHS = {
    "nothing": ("SELECT 1", "nothing"),
    "rows are read": ("SELECT count(*) FROM fruit", "nothing"),
    "a sequence": ("SELECT nextval('ticket')", "sequences"),
    "a sequence, not called": ("SELECT setval('customer_id_seq', 7, false)", "sequences"),
    "rows of an empty table": ("INSERT INTO customer (name) VALUES ('ann')", "delete"),
    "rows of empty tables that refer to each other": (
        "INSERT INTO customer (name) VALUES ('ann'); INSERT INTO purchase (customer_id) VALUES (1)",
        "delete",
    ),
    "rows that were rolled back": ("BEGIN; INSERT INTO customer (name) VALUES ('ann'); ROLLBACK", "delete"),
    "rows added to a seeded table": ("INSERT INTO fruit (name) VALUES ('fig')", "delete"),
    "rows added to a large table": ("INSERT INTO many VALUES (0), (20000)", "delete"),
    "a row of a seeded table, changed": ("UPDATE fruit SET price = 3 WHERE name = 'pear'", "reload"),
    "a row of a seeded table, deleted": ("DELETE FROM fruit WHERE name = 'pear'", "reload"),
    "a seeded table, truncated": ("TRUNCATE fruit", "reload"),
    "a seeded table, truncated and filled again": (
        "TRUNCATE fruit RESTART IDENTITY; INSERT INTO fruit (name) VALUES ('fig')",
        "reload",
    ),
    "an empty table, truncated": ("TRUNCATE customer CASCADE", "nothing"),
    "many rows of an empty table": (
        "INSERT INTO customer (name) SELECT repeat('x', 100) FROM generate_series(1, 20000)",
        "truncate",
    ),
    "many rows of a table that one with a trigger refers to": (
        "INSERT INTO bulky (note) SELECT repeat('x', 100) FROM generate_series(1, 20000)",
        "rebuild",
    ),
    "a temporary table": (
        "CREATE TEMP TABLE mine (id serial PRIMARY KEY); INSERT INTO mine DEFAULT VALUES",
        "nothing",
    ),
    "a table that was rolled back": ("BEGIN; CREATE TABLE mine (a integer); ROLLBACK", "nothing"),
    "a privilege, given and taken": (
        "GRANT SELECT ON fruit TO PUBLIC; REVOKE SELECT ON fruit FROM PUBLIC",
        "rebuild",
    ),
    "a trigger, disabled and enabled": (
        "ALTER TABLE watched DISABLE TRIGGER watch; ALTER TABLE watched ENABLE ALWAYS TRIGGER watch",
        "nothing",
    ),
    "a row of a large table, changed": ("UPDATE many SET id = -1 WHERE id = 1", "rebuild"),
    "a row that is checked by a function": ("DELETE FROM checked WHERE a = 3", "rebuild"),
    "a row added to a table that is checked by a function": ("INSERT INTO checked VALUES (5)", "delete"),
    "a row of a table with a trigger that fires always": ("INSERT INTO watched VALUES (1)", "rebuild"),
    "a materialized view": ("REFRESH MATERIALIZED VIEW prices", "rebuild"),
    "a table more": ("CREATE TABLE mine (a integer)", "rebuild"),
    "a table less": ("DROP TABLE purchase", "rebuild"),
    "a sequence less": ("DROP SEQUENCE ticket", "rebuild"),
    "a column more": ("ALTER TABLE customer ADD COLUMN age integer", "rebuild"),
    "a comment": ("COMMENT ON TABLE customer IS 'mine'", "rebuild"),
    "a function": (
        "CREATE OR REPLACE FUNCTION odd (integer) RETURNS boolean LANGUAGE sql AS 'SELECT true'",
        "rebuild",
    ),
    "a large object": ("SELECT lo_create(0)", "rebuild"),
    "a setting of the login": ("ALTER ROLE CURRENT_USER SET work_mem TO '1MB'", "rebuild"),
    "the login's password": ("ALTER ROLE CURRENT_USER PASSWORD 'guessable'", "nothing"),
}

_STATE = """
SELECT (SELECT json_agg(t ORDER BY id) FROM customer t)::text, (SELECT json_agg(t ORDER BY id) FROM purchase t)::text,
       (SELECT json_agg(t ORDER BY id) FROM fruit t)::text, (SELECT md5(json_agg(t ORDER BY id)::text) FROM many t),
       (SELECT json_agg(t ORDER BY a) FROM checked t)::text, (SELECT json_agg(t ORDER BY a) FROM watched t)::text,
       (SELECT total FROM prices)::text,
       (SELECT (last_value, is_called)::text FROM ticket), (SELECT (last_value, is_called)::text FROM customer_id_seq),
       (SELECT (last_value, is_called)::text FROM fruit_id_seq),
       (SELECT (last_value, is_called)::text FROM purchase_id_seq)
"""


async def used(server: Server, login: Login, sql: str) -> None:
    async with connected(server, login) as connection:
        await connection.execute(sql)


async def state(server: Server, login: Login) -> tuple[object, ...]:
    async with connected(server, login) as connection:
        row = await connection.fetchrow(_STATE)
        assert row is not None
        return tuple(row)


async def pool(server: Server, isolation: Isolation) -> Pool:
    return await pool_of(server, isolation, await build_template(server, TEMPLATE))


async def test_each_change_takes_cheapest_sufficient_path(any_server: Server, isolation: Isolation) -> None:
    server = any_server
    here = await pool(server, isolation)
    database_id = uuid4()
    login = await here.provision(database_id)
    clean = await state(server, login)
    login, generation = (await here.reset(database_id, 2)).login, 2
    for name, (sql, path) in PATHS.items():
        await used(server, login, sql)
        generation += 1
        outcome = await here.reset(database_id, generation)
        assert (name, outcome.path) == (name, path), outcome.reason
        assert outcome.login.user == str(here.name(database_id, generation))
        with pytest.raises(asyncpg.PostgresError):
            await used(server, login, "SELECT 1")
        login = outcome.login
        assert await state(server, login) == clean, name
        looked_at = await here.reset(database_id, generation := generation + 1)
        assert (name, looked_at.path, looked_at.reason) == (name, "sequences", "4 sequences used")
        again = await here.reset(database_id, generation := generation + 1)
        assert (name, again.path) == (name, "nothing"), again.reason
        login = again.login


async def test_cleaning_does_not_count_as_change_of_next_holder(
    any_server: Server, isolation: Isolation
) -> None:
    server = any_server
    here = await pool(server, isolation)
    database_id = uuid4()
    login = await here.provision(database_id)
    for generation in range(2, 12):
        await used(
            server, login, "INSERT INTO customer (name) VALUES ('ann'); UPDATE fruit SET price = price + 1"
        )
        outcome = await here.reset(database_id, generation)
        assert (outcome.path, outcome.reason) == ("reload", "2 tables written to, 1 sequences used")
        login = outcome.login


async def test_reset_succeeds_after_idle_session_was_terminated(
    server: Server, postgres: PostgresServer, isolation: Isolation
) -> None:
    here = await pool(server, isolation)
    database_id = uuid4()
    login = await here.provision(database_id)
    await used(server, login, "INSERT INTO customer (name) VALUES ('ann')")
    assert server.sessions.has_idle(login.database)
    with psycopg.connect(postgres.dsn) as superuser:  # before the event loop could notice
        ended = superuser.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s",
            (login.database,),
        ).fetchall()
    assert ended
    assert server.sessions.has_idle(login.database)
    assert (await here.reset(database_id, 2)).path == "delete"
