"""Tables that refer to each other, cleaned by a role whose sessions check every foreign key."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from uuid import uuid4

import asyncpg
import pytest

from freshdb_service.lifecycle import Isolation
from freshdb_service.postgres import Login, ServerOptions
from tests.integration.postgres.conftest import managed, plain_role
from tests.integration.postgres.stage import build_template, connected, pool_of
from tests.servers import PostgresServer
from tests.services import with_database

Role = Callable[[str], AbstractAsyncContextManager[str]]

TABLES = (
    *("hen", "egg", "author", "book", "left_half", "right_half", "full_a", "full_b", "journal"),
    *(
        "country",
        "city",
        "street",
        "station",
        "node",
        "chain",
        "measured",
        "tree",
        "loaded_a",
        "loaded_b",
        "stuck_a",
        "stuck_b",
    ),
    *("loaded_a", "loaded_b", "stuck_a", "stuck_b", "stamped", "logged", "private"),
)

TEMPLATE = """
-- a circle that is deferrable
CREATE TABLE hen (id integer PRIMARY KEY, egg_id integer NOT NULL);
CREATE TABLE egg (id integer PRIMARY KEY, hen_id integer NOT NULL REFERENCES hen DEFERRABLE);
ALTER TABLE hen ADD FOREIGN KEY (egg_id) REFERENCES egg DEFERRABLE INITIALLY DEFERRED;
-- one with a column that may be null
CREATE TABLE author (id integer PRIMARY KEY, best_id integer);
CREATE TABLE book (id integer PRIMARY KEY, author_id integer NOT NULL REFERENCES author);
ALTER TABLE author ADD FOREIGN KEY (best_id) REFERENCES book;
-- one with neither
CREATE TABLE left_half (id integer PRIMARY KEY, other integer NOT NULL);
CREATE TABLE right_half (id integer PRIMARY KEY, other integer NOT NULL REFERENCES left_half);
ALTER TABLE left_half ADD FOREIGN KEY (other) REFERENCES right_half ON DELETE RESTRICT;
-- one whose columns must be null together
CREATE TABLE full_a (x integer, y integer, bx integer, by integer, PRIMARY KEY (x, y));
CREATE TABLE full_b (x integer, y integer, ax integer NOT NULL, ay integer NOT NULL, PRIMARY KEY (x, y),
                     FOREIGN KEY (ax, ay) REFERENCES full_a);
ALTER TABLE full_a ADD FOREIGN KEY (bx, by) REFERENCES full_b MATCH FULL;
-- rows that would go with others, or change with them
CREATE TABLE country (code text PRIMARY KEY, name text);
CREATE TABLE city (id integer PRIMARY KEY, code text REFERENCES country ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE street (id integer PRIMARY KEY, city_id integer REFERENCES city ON DELETE SET NULL);
CREATE TABLE station (id integer PRIMARY KEY, street_id integer NOT NULL REFERENCES street);
INSERT INTO country VALUES ('de', 'Germany'), ('fr', 'France');
INSERT INTO city VALUES (1, 'de'), (2, 'fr');
INSERT INTO street VALUES (10, 1), (20, 2);
-- rows of one table that refer to each other, with rows in the template, and without
CREATE TABLE node (id integer PRIMARY KEY, parent_id integer REFERENCES node ON DELETE RESTRICT, name text);
INSERT INTO node VALUES (3, NULL, 'root'), (1, 3, 'leaf'), (2, 1, 'leaf');
CREATE TABLE chain (id integer PRIMARY KEY, next_id integer NOT NULL REFERENCES chain);
-- a partitioned table, that another one refers to, and one that refers to itself
CREATE TABLE measured (id integer PRIMARY KEY, other_id integer REFERENCES measured) PARTITION BY RANGE (id);
CREATE TABLE measured_low PARTITION OF measured FOR VALUES FROM (0) TO (100);
CREATE TABLE measured_high PARTITION OF measured FOR VALUES FROM (100) TO (200);
CREATE TABLE tree (id integer PRIMARY KEY, measured_id integer NOT NULL REFERENCES measured) PARTITION BY HASH (id);
CREATE TABLE tree_0 PARTITION OF tree FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE tree_1 PARTITION OF tree FOR VALUES WITH (MODULUS 2, REMAINDER 1);
-- circles with rows in the template: one that can be loaded again, and one that cannot
CREATE TABLE loaded_a (id integer PRIMARY KEY, b_id integer NOT NULL, note text);
CREATE TABLE loaded_b (id integer PRIMARY KEY, a_id integer NOT NULL REFERENCES loaded_a);
ALTER TABLE loaded_a ADD FOREIGN KEY (b_id) REFERENCES loaded_b DEFERRABLE;
WITH a AS (INSERT INTO loaded_a VALUES (1, 1)) INSERT INTO loaded_b VALUES (1, 1);
CREATE TABLE stuck_a (id integer PRIMARY KEY, b_id integer NOT NULL, note text);
CREATE TABLE stuck_b (id integer PRIMARY KEY, a_id integer NOT NULL REFERENCES stuck_a);
ALTER TABLE stuck_a ADD FOREIGN KEY (b_id) REFERENCES stuck_b;
WITH a AS (INSERT INTO stuck_a VALUES (1, 1)) INSERT INTO stuck_b VALUES (1, 1);
-- triggers, and a policy that hides rows from their owner
CREATE TABLE journal (said text);
CREATE FUNCTION say () RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN INSERT INTO journal VALUES (current_user); RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END; END $$;
CREATE TABLE stamped (id integer);
CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON stamped FOR EACH ROW EXECUTE FUNCTION say ();
CREATE TABLE logged (id integer);
CREATE TRIGGER log AFTER DELETE ON logged FOR EACH ROW EXECUTE FUNCTION say ();
CREATE TABLE private (id integer);
ALTER TABLE private ENABLE ROW LEVEL SECURITY;
ALTER TABLE private FORCE ROW LEVEL SECURITY;
CREATE POLICY few ON private USING (id > 10) WITH CHECK (true);
"""

PATHS = {
    "a deferrable circle": (
        "BEGIN; SET CONSTRAINTS ALL DEFERRED; INSERT INTO hen VALUES (1, 1); INSERT INTO egg VALUES (1, 1); COMMIT",
        "delete",
    ),
    "a circle with a column that may be null": (
        "INSERT INTO author VALUES (1); INSERT INTO book VALUES (7, 1), (8, 1); UPDATE author SET best_id = 8",
        "delete",
    ),
    "a circle with columns that must be null together": (
        "INSERT INTO full_a VALUES (1, 1); INSERT INTO full_b VALUES (2, 2, 1, 1); UPDATE full_a SET bx = 2, by = 2",
        "delete",
    ),
    "a circle with neither": (
        "WITH l AS (INSERT INTO left_half VALUES (1, 1)) INSERT INTO right_half VALUES (1, 1)",
        "truncate",
    ),
    "rows added to all of a chain of tables": (
        "INSERT INTO country VALUES ('it'); INSERT INTO city VALUES (3, 'it'); INSERT INTO street VALUES (30, 3), (31, 1)",
        "delete",
    ),
    "rows that others are deleted with": ("UPDATE country SET name = 'Gaul' WHERE code = 'fr'", "reload"),
    "rows that went with others": ("DELETE FROM country WHERE code = 'fr'", "reload"),
    "rows that changed with others": ("UPDATE country SET code = 'al' WHERE code = 'fr'", "reload"),
    "rows in the middle of a chain of tables": (
        "DELETE FROM city WHERE id = 1; INSERT INTO station VALUES (200, 20)",
        "reload",
    ),
    "a tree, changed": ("UPDATE node SET name = 'twig' WHERE id = 1", "reload"),
    "a tree with more leaves": ("INSERT INTO node VALUES (4, 2), (5, 4)", "delete"),
    "a table that refers to itself": ("INSERT INTO chain VALUES (1, 2), (2, 1)", "delete"),
    "partitions that refer to each other": (
        "INSERT INTO measured VALUES (1, 101), (101, 1); INSERT INTO tree SELECT n, 101 FROM generate_series(1, 20) n",
        "delete",
    ),
    "a circle that can be loaded": ("UPDATE loaded_a SET note = 'x'", "reload"),
    "a circle that cannot": ("UPDATE stuck_a SET note = 'x'", "rebuild"),
    "a trigger that fires at what is not done": ("INSERT INTO stamped VALUES (1)", "delete"),
    "a trigger that would fire": ("INSERT INTO logged VALUES (1)", "rebuild"),
    "rows that their owner does not see": ("INSERT INTO private VALUES (1), (11)", "rebuild"),
}


PATHS["everything"] = ("; ".join(sql for sql, path in PATHS.values() if path != "rebuild"), "reload")

AS_REPLICA = {
    "a circle with neither": "delete",
    "a circle that cannot": "reload",
    "a trigger that would fire": "delete",
}
"""Cases with a cheaper path for a role that fires no triggers."""


@asynccontextmanager
async def with_right_to_be_replica(dsn: str) -> AsyncIterator[str]:
    async with plain_role(dsn) as plain:
        role = plain.split("//")[1].split(":")[0]
        superuser = await asyncpg.connect(dsn)
        try:
            await superuser.execute(f"GRANT SET ON PARAMETER session_replication_role TO {role}")
            yield plain
            await superuser.execute(f"REVOKE SET ON PARAMETER session_replication_role FROM {role}")
        finally:
            await superuser.close()


async def state(dsn: str, login: Login) -> dict[str, object]:
    superuser = await asyncpg.connect(with_database(dsn, login.database))
    try:
        where = login.schema or "public"
        return {
            table: await superuser.fetchval(
                f"SELECT coalesce(json_agg(t ORDER BY t::text), '[]')::text FROM {where}.{table} t"
            )
            for table in TABLES
        }
    finally:
        await superuser.close()


@pytest.mark.parametrize("role", [plain_role, with_right_to_be_replica], ids=["plain", "replica"])
async def test_rows_are_restored_in_order_that_satisfies_foreign_keys(
    postgres: PostgresServer, options: ServerOptions, isolation: Isolation, role: Role
) -> None:
    as_replica = role is with_right_to_be_replica
    async with role(postgres.dsn) as dsn, managed(dsn, options) as server:
        assert (server.is_superuser, server.may_be_replica) == (False, as_replica)
        here = await pool_of(server, isolation, await build_template(server, TEMPLATE))
        database_id, generation = uuid4(), 1
        login = await here.provision(database_id)
        clean = await state(postgres.dsn, login)
        for name, (sql, path) in PATHS.items():
            async with connected(server, login) as connection:
                await connection.execute(sql)
            assert await state(postgres.dsn, login) != clean
            generation += 1
            outcome = await here.reset(database_id, generation)
            login = outcome.login
            expected = AS_REPLICA.get(name, path) if as_replica else path
            assert (name, outcome.path) == (name, expected), outcome.reason
            assert await state(postgres.dsn, login) == clean, name
            async with connected(server, login) as connection:
                assert await connection.fetchval("SELECT count(*) FROM country") == 2
