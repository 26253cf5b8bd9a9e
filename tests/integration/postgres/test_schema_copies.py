"""A schema that is leased has the same definitions, stored results and planner statistics as a leased database."""

from __future__ import annotations

from typing import Final
from uuid import uuid4

import pytest

from freshdb_service.errors import IsolationUnsupported
from freshdb_service.lifecycle import Isolation
from freshdb_service.postgres import Server
from freshdb_service.postgres.provision.shared_database import differing_definitions
from tests.integration.postgres.stage import build_template, connected, pool_of

PRINTED_DIFFERENTLY: Final = {
    "a check": "CREATE TABLE t (s varchar(10) CHECK (s IN ('a', 'b')))",
    "a check of a domain": "CREATE DOMAIN d AS varchar(10) CHECK (VALUE IN ('a', 'b')); CREATE TABLE t (s d)",
    "a default": "CREATE TABLE t (s varchar(10), is_a boolean DEFAULT ('a'::varchar(10) IN ('a', 'b')))",
    "a generated column": (
        "CREATE TABLE t (s varchar(10), known boolean GENERATED ALWAYS AS (s IN ('a', 'b')) STORED)"
    ),
    "an index": "CREATE TABLE t (s varchar(10)); CREATE INDEX i ON t (s) WHERE s IN ('a', 'b')",
    "an expression of an index": "CREATE TABLE t (s varchar(10)); CREATE INDEX i ON t ((s IN ('a', 'b')))",
    "a view": "CREATE TABLE t (s varchar(10)); CREATE VIEW v AS SELECT * FROM t WHERE s IN ('a', 'b')",
    "a policy": "CREATE TABLE t (s varchar(10)); CREATE POLICY p ON t USING (s IN ('a', 'b'))",
    "a rule": (
        "CREATE TABLE t (s varchar(10)); "
        "CREATE RULE r AS ON INSERT TO t WHERE new.s IN ('a', 'b') DO ALSO NOTHING"
    ),
    "a trigger": (
        "CREATE TABLE t (s varchar(10)); CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END'; "
        "CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW WHEN (new.s IN ('a', 'b')) EXECUTE FUNCTION f()"
    ),
    "a partition": (
        "CREATE TABLE t (s varchar(10)) PARTITION BY LIST ((s IN ('a', 'b'))); "
        "CREATE TABLE t_true PARTITION OF t FOR VALUES IN (true)"
    ),
    "an exclusion constraint": (
        "CREATE TABLE t (s varchar(10), during int4range, "
        "EXCLUDE USING gist (during WITH &&) WHERE (s IN ('a', 'b')))"
    ),
}
STATISTICS: Final = """
SELECT tablename, attname, null_frac, n_distinct, most_common_vals::text, histogram_bounds::text FROM pg_stats
WHERE tablename IN ('seed', 'nothing') ORDER BY 1, 2
"""
NUMBERS: Final = """
SELECT relname, relpages, reltuples FROM pg_class
WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r' ORDER BY relname
"""


@pytest.mark.parametrize("kind", PRINTED_DIFFERENTLY)
async def test_an_expression_that_postgresql_prints_differently_is_no_difference(
    server: Server, kind: str
) -> None:
    pool = await pool_of(server, Isolation.SCHEMA, await build_template(server, PRINTED_DIFFERENTLY[kind]))
    login = await pool.provision(uuid4())
    async with connected(server, login) as connection:
        assert await connection.fetchval("SELECT count(*) FROM t") == 0


async def test_a_stored_result_that_would_be_computed_again_is_refused(any_server: Server) -> None:
    template = await build_template(
        any_server,
        "CREATE TABLE s (n int); INSERT INTO s VALUES (1); CREATE MATERIALIZED VIEW counted AS SELECT count(*) FROM s",
        "INSERT INTO s VALUES (2)",
    )
    with pytest.raises(IsolationUnsupported) as refused:
        await pool_of(any_server, Isolation.SCHEMA, template)
    assert refused.value.extra["reasons"] == ["in a schema created from it, rows of the table counted differ"]
    pool = await pool_of(any_server, Isolation.DATABASE, template)
    async with connected(any_server, await pool.provision(uuid4())) as connection:
        assert await connection.fetchval("SELECT count FROM counted") == 1


async def test_a_schema_has_the_statistics_of_the_template(any_server: Server) -> None:
    template = await build_template(
        any_server,
        "CREATE TABLE seed (id int PRIMARY KEY, k int); CREATE TABLE nothing (a int)",
        "INSERT INTO seed SELECT n, n % 7 FROM generate_series(1, 1000) AS n",
    )
    found = []
    for isolation in Isolation:
        pool = await pool_of(any_server, isolation, template)
        async with connected(any_server, await pool.provision(uuid4())) as connection:
            found.append([await connection.fetch(STATISTICS), await connection.fetch(NUMBERS)])
            assert found[-1][0] != []
    assert found[0] == found[1]


def test_a_refusal_names_the_object_and_shows_only_the_lines_that_differ() -> None:
    then = "CREATE VIEW seed.v AS\n SELECT 1 AS a,\n    2 AS b;"
    now = "CREATE VIEW seed.v AS\n SELECT 1 AS a,\n    3 AS b;"
    [reason] = differing_definitions([then], [now], [])
    assert reason == (
        "a schema created from it would differ: CREATE VIEW seed.v AS: template: 2 AS b;, schema: 3 AS b;"
    )
    assert differing_definitions([then], [now], [now]) == []
    [missing] = differing_definitions([then], [], [])
    assert missing.startswith(
        "a schema created from it would differ: CREATE VIEW seed.v AS: template: 2 AS b;"
    )
