"""Section ``autovacuum``: how often a rebuild replaces a clean-up on a server whose autovacuum is on."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass
from time import monotonic

import asyncpg
import httpx
import uvloop

from freshdb_service.embedded import EmbeddedPostgres
from tests.benchmarks.client_loop import TOUCHED
from tests.benchmarks.resets import Resets
from tests.benchmarks.results import Findings, Run, Table
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

TEMPLATE = "autovacuum"
DATABASES = 8
ISOLATIONS = ("database", "schema")
SERVERS = {
    "on, every minute (PostgreSQL's default)": {"autovacuum": "on", "autovacuum_naptime": "60s"},
    "on, every second": {"autovacuum": "on", "autovacuum_naptime": "1s"},
}
SEED = "insert into t0 (name) select 'row ' || i from generate_series(1, 200) i"


@dataclass(frozen=True, slots=True)
class Effort:
    """Seconds of work per server, role and isolation. Autovacuum visits a database every minute by default."""

    seconds: float = 100.0


QUICK = Effort(seconds=3.0)


def measure(run: Run) -> Findings:
    """Measure one server after the other."""
    effort = QUICK if run.quick else Effort()
    paths: dict[tuple[str, str, str], Counter[str]] = {}
    for name, settings in SERVERS.items():
        for role in ("superuser", "plain role"):
            with data_directory() as data:
                server = EmbeddedPostgres(data / "own", settings=settings)
                dsn = asyncio.run(server.start())
                try:
                    if role == "plain role":
                        dsn = uvloop.run(_plain_role(dsn))
                    with serving(data, postgres=dsn) as served, served.client() as client:
                        register(client, TEMPLATE, schema(), SEED)
                        for isolation in ISOLATIONS:
                            found = uvloop.run(_work(client, isolation, effort))
                            paths[name, role, isolation] = found
                            run.log_progress(f"autovacuum {name}, {role}, {isolation}: {dict(found)}")
                            run.calibrate()
                finally:
                    asyncio.run(server.stop())
    return _findings(effort, paths)


async def _plain_role(dsn: str) -> str:
    connection = await asyncpg.connect(dsn, ssl=False)
    await connection.execute("CREATE ROLE manager LOGIN CREATEDB CREATEROLE PASSWORD 'plain'")
    await connection.close()
    host = dsn.rpartition("@")[2]
    return f"postgresql://manager:plain@{host}"


async def _work(client: httpx.Client, isolation: str, effort: Effort) -> Counter[str]:
    """Lease, work and release with one caller. Return the resets by path, and by the cause of a rebuild."""
    pool = open_pool(client, TEMPLATE, isolation)
    resize(client, pool, DATABASES)
    wait_until_ready(client, pool, DATABASES)
    resets = Resets(client)
    resets.skip()
    source = random.Random(4)  # noqa: S311 - which tables, nothing secret
    found: Counter[str] = Counter()
    until, number = monotonic() + effort.seconds, 0
    while monotonic() < until:
        number += 1
        lease = await asyncio.to_thread(acquire, client, TEMPLATE, isolation)
        connection = await asyncpg.connect(lease["url"], ssl=False, statement_cache_size=0)
        for table in source.sample(range(1, TABLES), TOUCHED):
            await connection.execute(f"insert into t{table} (name) values ('one')")
        if number % 10 == 0:  # enough for autovacuum
            await connection.execute("insert into t1 (name) select 'x' from generate_series(1, 2000)")
        await connection.close()
        await asyncio.to_thread(release, client, lease["id"])
        if number % 50 == 0:
            found.update(_label(one.path, one.reason) for one in resets.all())
    await asyncio.to_thread(wait_until_ready, client, pool, DATABASES)
    found.update(_label(one.path, one.reason) for one in resets.all())
    return found


def _label(path: str, reason: str) -> str:
    return "in place" if path != "rebuild" else f"rebuild: {reason}"


def _findings(effort: Effort, paths: dict[tuple[str, str, str], Counter[str]]) -> Findings:
    figures: dict[str, float] = {}
    rows = []
    for (server, role, isolation), found in paths.items():
        rebuilt = found.total() - found["in place"]
        share = rebuilt / found.total() if found.total() else 0.0
        figures[f"{server.replace(', ', '.').partition(' (')[0]}.{role}.{isolation}.rebuilt"] = share
        reasons = [
            f"{label.removeprefix('rebuild: ')}: {number}"
            for label, number in found.items()
            if label != "in place"
        ]
        counts = [f"{found.total():,}", f"{rebuilt:,}", f"{100 * share:.1f} %"]
        rows.append([server, role, isolation, *counts, ", ".join(reasons) or "-"])
    return Findings(
        settings=[
            (
                f"One caller leases one of {DATABASES} databases, inserts a row in {TOUCHED} of {TABLES} tables, and "
                f"returns it, for {effort.seconds:.0f} s. Every tenth lease also inserts 2,000 rows, which autovacuum "
                "acts on."
            ),
            (
                "A rebuild replaces the clean-up if autovacuum changed what plans or queries show, and the service cannot "
                "put it back."
            ),
        ],
        tables=[
            Table(
                caption="Resets, and rebuilds among them",
                head=["autovacuum", "service's role", "isolation", "resets", "rebuilt", "share", "reasons"],
                rows=rows,
            )
        ],
        figures=figures,
    )
