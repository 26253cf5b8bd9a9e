"""A reused database answers as a fresh one does: the order of rows, plans, planner statistics, counters.

The cases are the differences that users have met. ``tests/twins`` looks for others.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Final
from uuid import uuid4

import asyncpg
import pytest

from freshdb_service.lifecycle import Isolation
from freshdb_service.postgres import Server
from tests.integration.postgres.stage import Pool, build_template, connected, pool_of

TEMPLATE: Final = """
CREATE TABLE item (id serial PRIMARY KEY, name text NOT NULL);
INSERT INTO item (name) VALUES ('pen');
CREATE TABLE seed (id integer PRIMARY KEY, k integer, v text);
CREATE INDEX seed_k ON seed (k);
INSERT INTO seed SELECT n, n % 7, 'value ' || n FROM generate_series(1, 200) AS n;
UPDATE seed SET v = repeat('x', n) FROM (SELECT n FROM generate_series(1, 200, 3) AS n) m WHERE id = n;
CREATE TABLE wide (id integer PRIMARY KEY, body text);
INSERT INTO wide SELECT n, repeat('y', n * 97 % 2000) FROM generate_series(1, 300) AS n;
DELETE FROM wide WHERE id % 11 = 0;
CREATE TABLE team (id serial PRIMARY KEY, name text);
CREATE TABLE person (id serial PRIMARY KEY, team_id integer REFERENCES team, name text, mail text);
CREATE INDEX person_name ON person (name);
CREATE STATISTICS person_both (dependencies, mcv) ON name, mail FROM person;
CREATE SEQUENCE ticket;
SELECT nextval('ticket');
"""

ORDER: Final = "SELECT id FROM seed"
ADDED: Final = "INSERT INTO seed VALUES (1001, 1, 'a'), (1002, 2, 'b')"
PLANS: Final = (
    "EXPLAIN (FORMAT JSON) SELECT * FROM person JOIN team ON team.id = person.team_id",
    "EXPLAIN (FORMAT JSON) SELECT * FROM seed WHERE k = 3",
    "EXPLAIN (FORMAT JSON) SELECT * FROM person WHERE name = 'x'",
)
MANY: Final = "INSERT INTO person (name, mail) SELECT 'secret', 'secret' FROM generate_series(1, 500)"
NUMBERS: Final = """
SELECT relname, relpages, reltuples, relallvisible, relhasindex, relhasrules, relhastriggers, relhassubclass FROM pg_class
WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r' ORDER BY relname
"""
COUNTERS: Final = """
SELECT relname, n_live_tup, n_dead_tup, n_mod_since_analyze FROM pg_stat_user_tables WHERE schemaname = current_schema()
ORDER BY relname
"""
STATISTICS: Final = (
    "SELECT tablename, attname, n_distinct, most_common_vals::text, histogram_bounds::text FROM pg_stats "
    "WHERE schemaname = current_schema() ORDER BY 1, 2"
)
TRIGGER: Final = """
CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL;END'; CREATE TRIGGER t AFTER INSERT ON team
EXECUTE FUNCTION f(); DROP TRIGGER t ON team; DROP FUNCTION f
"""
EXTENDED: Final = "SELECT most_common_vals FROM pg_stats_ext WHERE schemaname = current_schema()"


@dataclass(frozen=True)
class Case:
    """Work of several leases, and what the next one may not see of it."""

    leases: tuple[str, ...]
    probes: tuple[str, ...]
    isolations: tuple[Isolation, ...] = field(default=tuple(Isolation))


CASES: Final = {
    "a seed is updated, then vacuumed": Case(
        ("UPDATE item SET name = 'pencil'", "VACUUM item"),
        ("INSERT INTO item (name) VALUES ('ink')", "SELECT name FROM item"),
    ),
    "a seed is updated in twelve leases": Case(
        ("UPDATE seed SET v = v || 'x'",) * 12, (ORDER, "SELECT id FROM seed LIMIT 1", ADDED, ORDER)
    ),
    "a seed with gaps gets rows": Case(
        ("INSERT INTO wide SELECT n, repeat('z', n) FROM generate_series(1000, 1040) AS n",) * 3,
        ("SELECT id FROM wide", "INSERT INTO wide VALUES (5000, 'new'), (5001, '')", "SELECT id FROM wide"),
    ),
    "a seed with gaps loses rows": Case(
        ("DELETE FROM wide WHERE id < 100",),
        ("SELECT id, ctid FROM wide", "INSERT INTO wide VALUES (5000, 'new')", "SELECT id FROM wide"),
    ),
    "an update of a seed is rolled back": Case(
        ("BEGIN; UPDATE seed SET k = 0; ROLLBACK",), (ADDED, ORDER, *PLANS)
    ),
    "a table is filled and analysed": Case((f"{MANY}; ANALYZE",), (STATISTICS, EXTENDED, NUMBERS, *PLANS)),
    "a table is filled, analysed and emptied": Case(
        (f"{MANY}; ANALYZE person; DELETE FROM person; VACUUM ANALYZE person",),
        (STATISTICS, EXTENDED, NUMBERS, *PLANS),
    ),
    "rows are rolled back": Case((f"BEGIN; {MANY}; ROLLBACK",), (NUMBERS, *PLANS)),
    "few rows are added": Case(("INSERT INTO team (name) VALUES ('a')",) * 3, (NUMBERS, *PLANS)),
    "few rows are added in many leases": Case(
        ("INSERT INTO person (name) SELECT 'a' FROM generate_series(1, 60)",) * 6, (NUMBERS, *PLANS)
    ),
    "a table is truncated": Case(("TRUNCATE person, team",), (NUMBERS, *PLANS)),
    "everything is vacuumed": Case(("VACUUM",), (NUMBERS, STATISTICS, *PLANS)),
    "everything is analysed": Case(("ANALYZE",), (NUMBERS, STATISTICS, *PLANS)),
    "a trigger is created and dropped": Case((TRIGGER,), (NUMBERS,)),
    "counters of rows": Case((f"{MANY}; DELETE FROM person",), (COUNTERS,), (Isolation.DATABASE,)),
    "a sequence is used": Case(("SELECT nextval('ticket')",) * 2, ("SELECT * FROM ticket",)),
    "index-only scans": Case(
        ("UPDATE seed SET v = ''", "INSERT INTO seed VALUES (0)"),
        (
            "SET enable_seqscan = off; SET enable_bitmapscan = off",
            "EXPLAIN (ANALYZE, FORMAT JSON, COSTS OFF, TIMING OFF, SUMMARY OFF) SELECT id FROM seed WHERE id < 50",
        ),
        (Isolation.DATABASE,),
    ),
}


async def _answers(pool: Pool, login: object, probes: tuple[str, ...]) -> list[object]:
    answers: list[object] = []
    async with connected(pool.server, login) as connection:  # type: ignore[arg-type]
        for probe in probes:
            if ";" in probe:
                await connection.execute(probe)
                continue
            rows = await connection.fetch(probe)
            answers.append([_rounded(row) for row in rows])
    return answers


def _rounded(row: asyncpg.Record) -> object:
    values = tuple(row.values())
    if len(values) == 1 and isinstance(values[0], str) and values[0].startswith("["):
        return _without_noise(json.loads(values[0]))
    return values


def _without_noise(plan: object) -> object:
    """Return a plan without what two fresh databases do not share: buffers of planning."""
    if isinstance(plan, dict):
        return {
            key: _without_noise(value)
            for key, value in plan.items()
            if "Blocks" not in key and key != "Planning"
        }
    return [_without_noise(one) for one in plan] if isinstance(plan, list) else plan


@pytest.mark.parametrize("name", CASES)
async def test_a_reused_database_answers_like_a_fresh_one(
    any_server: Server, isolation: Isolation, name: str
) -> None:
    case = CASES[name]
    if isolation not in case.isolations:
        pytest.skip("all schemas of a shared database have these in common")
    if name == "counters of rows" and not any_server.is_superuser:
        pytest.skip("only a superuser may reset counters")
    template = await build_template(any_server, TEMPLATE)
    pool = await pool_of(any_server, isolation, template)
    reused, fresh, paths = uuid4(), uuid4(), []
    login = await pool.provision(reused)
    for generation, work in enumerate(case.leases, 2):
        async with connected(any_server, login) as connection:
            for statement in work.split("; "):
                await connection.execute(statement)
        outcome = await pool.reset(reused, generation)
        login = outcome.login
        paths.append(f"{outcome.path}: {outcome.reason}")
    expected = await _answers(pool, await pool.provision(fresh), case.probes)
    assert await _answers(pool, login, case.probes) == expected, paths
