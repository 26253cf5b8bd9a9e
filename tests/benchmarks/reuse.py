"""Section ``reuse``: growth and slowdown of one database that is cleaned again and again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import asyncpg
import httpx
import uvloop

from freshdb_service.embedded import EmbeddedPostgres
from tests.benchmarks.client_loop import TOUCHED
from tests.benchmarks.resets import Resets
from tests.benchmarks.results import Findings, Run, Table, milliseconds, percentile
from tests.benchmarks.running import (
    TABLES,
    acquire,
    data_directory,
    open_pool,
    register,
    release,
    resize,
    schema,
    serving,
    wait_until_ready,
)

GOAL = 1.2
TEMPLATE = "reuse"
FRESH = "fresh"
ISOLATIONS = ("database", "schema")
SEED = "insert into t0 (name) select 'row ' || i from generate_series(1, 100) i"


@dataclass(frozen=True, slots=True)
class Effort:
    """Amount of measurement."""

    turns: int = 10_000
    window: int = 500
    """Turns between two measurements of the sizes."""
    compared: int = 20
    """Number of blocks of turns, at the end, of the reused database and of a fresh one, alternating."""
    block: int = 20


QUICK = Effort(turns=60, window=20, compared=2, block=5)


@dataclass(frozen=True, slots=True)
class Window:
    """Measurements of some turns, and the sizes in KiB at their end."""

    turns: int
    seconds: list[float]
    database: int
    """Size of the database, or of a schema's tables, indexes and sequences."""
    catalogs: int
    """Size of PostgreSQL's own tables in the database."""
    roles: int
    """Size of ``pg_authid``, which all databases of the server share."""
    rebuilds: int

    @property
    def kibibytes(self) -> int:
        """Total size of everything in which reuse could leave leftovers."""
        return self.database + self.catalogs + self.roles


@dataclass(frozen=True, slots=True)
class Reused:
    """Measurements of one database during its use, and, at the end, alternating with a fresh database."""

    windows: list[Window]
    old: list[float]
    fresh: list[float]


SIZES = """
SELECT coalesce(sum(pg_total_relation_size(c.oid)) FILTER (WHERE NOT c.relisshared AND c.oid >= 16384
                AND ($1::text IS NULL OR n.nspname = $1)), 0)::bigint / 1024 AS database,
       sum(pg_total_relation_size(c.oid)) FILTER (WHERE NOT c.relisshared AND c.oid < 16384)::bigint / 1024 AS catalogs,
       pg_total_relation_size('pg_authid') / 1024 AS roles
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'S', 'm')
"""


def measure(run: Run) -> Findings:
    """Measure one isolation after the other."""
    effort = QUICK if run.quick else Effort()
    with data_directory() as data:
        server = EmbeddedPostgres(data / "reused")
        superuser = asyncio.run(server.start())
        try:
            with serving(data, postgres=superuser) as served, served.client() as client:
                register(client, TEMPLATE, schema(), SEED)
                register(client, FRESH, schema(), SEED, "comment on table t0 is 'fresh'")
                found = {
                    isolation: uvloop.run(_reused(run, effort, client, superuser, isolation))
                    for isolation in ISOLATIONS
                }
        finally:
            asyncio.run(server.stop())
    return _findings(effort, found)


async def _reused(run: Run, effort: Effort, client: httpx.Client, superuser: str, isolation: str) -> Reused:
    pool = _pool_of_one(client, TEMPLATE, isolation)
    random_source = random.Random(4)  # noqa: S311 - which tables, nothing secret
    events = Resets(client)
    events.skip()
    windows = []
    for number in range(1, effort.turns + 1):
        lease = await _turn(client, TEMPLATE, isolation, random_source, number)
        if number % effort.window == 0:
            wait_until_ready(client, pool, 1)
            windows.append(await _window(number, events, superuser, lease))
            one = windows[-1]
            run.log_progress(
                f"{isolation}: {number} turns, reset {median(one.seconds) * 1e3:.2f} ms, "
                f"{one.database} + {one.catalogs} + {one.roles} KiB, {one.rebuilds} rebuilt"
            )
            run.calibrate()
    pools = {TEMPLATE: pool, FRESH: _pool_of_one(client, FRESH, isolation)}
    taken: dict[str, list[float]] = {name: [] for name in pools}
    for number in range(effort.compared + 1):
        for name, its_pool in pools.items():
            for turn in range(effort.block):
                await _turn(client, name, isolation, random_source, turn)
            wait_until_ready(client, its_pool, 1)
            seconds = [one.seconds for one in events.all()]
            if number:  # not measured: the first block, which warms up the fresh database
                taken[name] += seconds
    run.log_progress(
        f"{isolation}: {median(taken[TEMPLATE]) * 1e3:.2f} ms, a fresh one {median(taken[FRESH]) * 1e3:.2f} ms"
    )
    return Reused(windows, taken[TEMPLATE], taken[FRESH])


def _pool_of_one(client: httpx.Client, template: str, isolation: str) -> str:
    pool = open_pool(client, template, isolation)
    resize(client, pool, 1)
    wait_until_ready(client, pool, 1)
    return pool


async def _turn(
    client: httpx.Client, template: str, isolation: str, random_source: random.Random, number: int
) -> dict[str, Any]:
    lease = acquire(client, template, isolation)
    connection = await asyncpg.connect(lease["url"], ssl=False, statement_cache_size=0)
    for statement in _work(random_source, number):
        await connection.execute(statement)
    await connection.close()
    release(client, lease["id"])
    return lease


def _work(random_source: random.Random, number: int) -> Iterator[str]:
    """Return the statements of one test: rows always, the seed sometimes, temporary or undone definitions less often."""
    yield "; ".join(
        f"insert into t{n} (name) values ('one')" for n in random_source.sample(range(1, TABLES), TOUCHED)
    )
    if number % 5 == 0:
        yield "update t0 set name = 'changed' where id <= 10"
    if number % 10 == 0:
        yield "create temp table mine (id serial primary key, name text); insert into mine (name) values ('one')"
    if number % 20 == 0:
        yield "begin; create table mine_too (id serial primary key); rollback"
    if number % 100 == 0:
        yield "insert into t1 (name) select repeat('x', 100) from generate_series(1, 2000)"


async def _window(number: int, events: Resets, superuser: str, lease: dict[str, str]) -> Window:
    resets = events.all()
    server, _, _ = superuser.rpartition("/")
    connection = await asyncpg.connect(f"{server}/{lease['database']}", ssl=False)
    row = await connection.fetchrow(SIZES, lease.get("schema"))
    await connection.close()
    assert row is not None
    return Window(
        number,
        [one.seconds for one in resets],
        row["database"],
        row["catalogs"],
        row["roles"],
        sum(one.path == "rebuild" for one in resets),
    )


def _findings(effort: Effort, found: dict[str, Reused]) -> Findings:
    figures: dict[str, float] = {}
    rows: list[list[str]] = []
    ratios: list[list[str]] = []
    for isolation, reused in found.items():
        windows = reused.windows
        # Growth is counted from the third window: the first audit, which rebuilds the database, is due in the second.
        start, end = windows[2], windows[-1]
        shown = sorted(
            {0, 1, 2, len(windows) // 4, len(windows) // 2, 3 * len(windows) // 4, len(windows) - 1}
        )
        rows += [
            [
                isolation,
                f"{one.turns:,}",
                milliseconds(median(one.seconds)),
                milliseconds(percentile(one.seconds, 95)),
                *(f"{size:,}" for size in (one.database, one.catalogs, one.roles)),
                str(one.rebuilds),
            ]
            for one in (windows[number] for number in shown)
        ]
        for what, first, last in (
            ("reset, compared with a fresh database", median(reused.fresh), median(reused.old)),
            ("size", start.kibibytes, end.kibibytes),
        ):
            figures[f"{isolation}.{what.partition(',')[0]}.end/start"] = last / first
            ratios.append([isolation, what, f"{last / first:.2f}", f"≤ {GOAL}"])
        figures[f"{isolation}.rebuilds"] = float(sum(one.rebuilds for one in windows))
    return Findings(
        settings=[
            (
                f"One database (one schema), leased and returned {effort.turns:,} times by one caller. Each time rows in "
                f"{TOUCHED} of {TABLES} tables. Every 5th time, rows of the seed are changed. Every 10th, a temporary "
                "table. Every 20th, a table whose creation is rolled back. Every 100th, 2,000 rows in one table."
            ),
            (
                f"Seconds of a reset from the service's events, over {effort.window} turns each. They include the wait "
                "for the holder's backend to exit. Sizes at the end of these. The start, for the sizes' ratios, is the "
                "third row: in the second the first audit is due, and the database is rebuilt for the comparison."
            ),
            (
                "A machine's speed changes over so many turns. So, at the end, the old database and a new one, of another "
                f"template with the same tables, are used alternating, {effort.block} times each, {effort.compared} "
                "times: the speeds' ratio is that of the medians of their resets."
            ),
        ],
        tables=[
            Table(
                caption="During the reuse",
                head=[
                    "isolation",
                    "turns",
                    "reset p50",
                    "p95, ms",
                    "tables, KiB",
                    "catalogs, KiB",
                    "pg_authid, KiB",
                    "rebuilt",
                ],
                rows=rows,
            ),
            Table(
                caption="After all turns",
                head=["isolation", "measurement", "ratio", "goal"],
                rows=ratios,
            ),
        ],
        figures=figures,
    )
