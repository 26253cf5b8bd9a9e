"""Section ``schema_size``: cost of a reset, by size of the schema, size of the seed, and number of touched tables."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Literal

import httpx
import psycopg

from freshdb_service.embedded import EmbeddedPostgres
from tests.benchmarks.resets import Reset, Resets
from tests.benchmarks.results import Findings, Run, Table, milliseconds, percentile
from tests.benchmarks.running import (
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

Isolation = Literal["database", "schema"]
Change = Literal["nothing", "insert", "update"]


@dataclass(frozen=True, slots=True)
class Shape:
    """A template: its tables, and the rows of its seed, which are spread evenly over the first tenth of the tables."""

    tables: int
    seed: int

    @property
    def name(self) -> str:
        """Name of the template."""
        return f"size-{self.tables}-{self.seed}"

    @property
    def seeded(self) -> int:
        """Number of tables with rows."""
        return self.tables // 10 if self.seed else 0

    def sql(self) -> list[str]:
        """Return the template's SQL."""
        each = self.seed // self.seeded if self.seeded else 0
        return [
            schema(self.tables),
            *(
                f"insert into t{n} (name) select 'row ' || i from generate_series(1, {each}) i"
                for n in range(self.seeded)
            ),
        ]


@dataclass(frozen=True, slots=True)
class Case:
    """The changes of a holder before the release."""

    isolation: Isolation
    shape: Shape
    touched: int
    change: Change

    def sql(self) -> str:
        """Return SQL that touches the first tables (seeded tables come first): it inserts a row or changes a seed's row."""
        if self.change == "nothing":
            return "select 1"
        touching = "insert into t{n} (name) values ('one')"
        changing = "update t{n} set name = 'changed' where id = 1"
        return ";".join(
            (changing if self.change == "update" else touching).format(n=n) for n in range(self.touched)
        )


@dataclass(frozen=True, slots=True)
class Effort:
    """Amount of measurement."""

    tables: tuple[int, ...] = (10, 100, 1_000)
    seeds: tuple[int, ...] = (0, 10_000, 1_000_000)
    touched: tuple[int, ...] = (1, 10)
    repeats: int = 9
    largest_schema_seed: int = 10_000
    largest_schema_tables: int = 100


QUICK = Effort(tables=(10, 100), seeds=(0, 10_000), touched=(1,), repeats=2)


def cases(effort: Effort, isolation: Isolation, shape: Shape) -> Iterator[Case]:
    """Return the cases for one shape."""
    yield Case(isolation, shape, 0, "nothing")
    for touched in sorted({*(one for one in effort.touched if one < shape.tables), shape.tables}):
        yield Case(isolation, shape, touched, "insert")
        if touched <= shape.seeded:
            yield Case(isolation, shape, touched, "update")


def measure(run: Run) -> Findings:
    """Measure one shape after the other, on one service."""
    effort = QUICK if run.quick else Effort()
    rows: list[list[str]] = []
    figures: dict[str, float] = {}
    with data_directory() as data:
        server = EmbeddedPostgres(data / "sizes")
        dsn = asyncio.run(server.start())
        try:
            with serving(data, postgres=dsn) as served, served.client() as client:
                for isolation, shape in _shapes(effort):
                    run.log_progress(f"{isolation}: {shape.tables} tables, {shape.seed} rows")
                    rows += _measured(client, dsn, effort, isolation, shape, figures)
                    run.calibrate()
        finally:
            asyncio.run(server.stop())
    return Findings(
        settings=[
            (
                f"Median of {effort.repeats} resets each, from the service's events, one at a time, on an idle machine. "
                "The first two (of two databases) are not counted. The seed's rows "
                "are spread evenly over the first tenth of the tables. Tests write to tables from the "
                "first on, so that the seeded ones are always among them."
            ),
            (
                "With two databases the service has an open session in each, unless it was rebuilt just before: these "
                "are resets in open sessions. They begin when the holder's backend has exited."
            ),
            (
                "Insert: one row into each. Update: one row of the seed in each (where as many tables are "
                "seeded). Each table has a sequence, two indexes and a foreign key."
            ),
            (
                "For comparison: DROP DATABASE and CREATE DATABASE … STRATEGY file_copy of the same "
                "template, alone, in the same minute."
            ),
            (
                f"Left out: isolation `schema` with more than {effort.largest_schema_tables:,} tables or "
                f"{effort.largest_schema_seed:,} rows (creating one takes too long), and "
                "numbers of tables that the schema does not have."
            ),
        ],
        tables=[
            Table(
                caption="",
                head=[
                    "isolation",
                    "tables",
                    "seed, rows",
                    "touched",
                    "change",
                    "path",
                    "times",
                    "reset, ms",
                    "p90",
                    "drop and create, ms",
                ],
                rows=rows,
            )
        ],
        figures=figures,
    )


def _shapes(effort: Effort) -> Iterator[tuple[Isolation, Shape]]:
    for tables in effort.tables:
        for seed in effort.seeds:
            yield "database", Shape(tables, seed)
    for tables in effort.tables:
        for seed in effort.seeds:
            if tables <= effort.largest_schema_tables and seed <= effort.largest_schema_seed:
                yield "schema", Shape(tables, seed)


def _measured(
    client: httpx.Client,
    dsn: str,
    effort: Effort,
    isolation: Isolation,
    shape: Shape,
    figures: dict[str, float],
) -> list[list[str]]:
    register(client, shape.name, *shape.sql())
    pool = open_pool(client, shape.name, isolation)
    resize(client, pool, 2)
    wait_until_ready(client, pool, 2)
    bare = _bare(dsn, effort.repeats) if isolation == "database" else None
    events = Resets(client)
    rows = []
    for case in cases(effort, isolation, shape):
        by_path: dict[str, list[float]] = defaultdict(list)
        for reset in [_reset(client, dsn, events, case) for _ in range(effort.repeats + 2)][2:]:
            by_path[reset.path].append(reset.seconds)
        for path, seconds in sorted(by_path.items()):
            key = f"{isolation}.{shape.tables}.{shape.seed}.{case.touched}.{case.change}.{path}"
            figures[f"{key}.seconds"] = median(seconds)
            rows.append(
                [
                    isolation,
                    f"{shape.tables:,}",
                    f"{shape.seed:,}",
                    f"{case.touched:,}",
                    case.change,
                    path,
                    f"{len(seconds)}",
                    milliseconds(median(seconds)),
                    milliseconds(percentile(seconds, 90)),
                    milliseconds(bare) if bare is not None else "",
                ]
            )
    template = next(one for one in client.get("/v1/templates").json()["items"] if one["name"] == shape.name)
    client.delete(f"/v1/templates/{template['id']}").raise_for_status()
    return rows


def _reset(client: httpx.Client, dsn: str, events: Resets, case: Case) -> Reset:
    lease = acquire(client, case.shape.name, case.isolation)
    with psycopg.connect(lease["url"], autocommit=True) as connection:
        connection.execute(case.sql().encode())
    with psycopg.connect(dsn, autocommit=True) as watching:
        while watching.execute("SELECT FROM pg_stat_activity WHERE usename = %s", [lease["user"]]).fetchone():
            pass
    events.skip()
    release(client, lease["id"])
    return events.of(lease["database_id"])


def _bare(dsn: str, repeats: int) -> float:
    """Time the creation and the drop of a copy of the newest template."""
    taken = []
    with psycopg.connect(dsn, autocommit=True) as connection:
        found = connection.execute(
            r"SELECT datname FROM pg_database WHERE datname LIKE 'freshdb\_t\_%' ORDER BY oid DESC LIMIT 1"
        ).fetchone()
        assert found is not None
        for _ in range(repeats):
            began = time.perf_counter()
            connection.execute(
                f'CREATE DATABASE bench_bare TEMPLATE "{found[0]}" STRATEGY file_copy'.encode()
            )
            connection.execute("DROP DATABASE bench_bare WITH (FORCE)")
            taken.append(time.perf_counter() - began)
    return median(taken)
