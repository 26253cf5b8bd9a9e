"""Section ``small_changes``: resets of a few rows in unseeded tables, and of updated seeds.

Each turn compares the reset with two things, in the same turn and on the same server. A *clone* is the bare DROP DATABASE
and CREATE DATABASE of the template. The *undo* is the SQL that undoes this change, in an open session, by an author who
knows the change. A reset must find the change, and prove that there is no other one.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Self
from uuid import UUID

import httpx
import psycopg

from freshdb_service.embedded import EmbeddedPostgres
from freshdb_service.postgres.names import token_of
from tests.benchmarks.client_loop import TOUCHED
from tests.benchmarks.resets import Reset, Resets
from tests.benchmarks.results import Findings, Run, Table, milliseconds, ratio
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

SMALL_SEED = 200
LARGE_SEED = 20_000
_NOT_COUNTED = 4
"""Turns before the measurement: two for each of the two databases."""


@dataclass(frozen=True, slots=True)
class Case:
    """A change of a holder.

    Attributes:
        name: name of the figures.
        label: the change, for readers.
        seed: rows of the template in table t0. The other tables are empty.
        change: SQL of the change.
        undo: SQL that undoes it.
    """

    name: str
    label: str
    seed: int
    change: str
    undo: str

    @property
    def template(self) -> str:
        """Name of the template."""
        return f"seed-{self.seed}"

    def template_sql(self) -> list[str]:
        """Return the SQL of the template."""
        rows = f"insert into t0 (name) select 'row ' || i from generate_series(1, {self.seed}) i"
        return [schema(), rows] if self.seed else [schema()]


def _few(tables: int) -> tuple[str, str]:
    change = "".join(f"insert into t{n} (name) values ('one');" for n in range(1, 1 + tables))
    undo = "".join(f"delete from t{n}; select setval('t{n}_id_seq', 1, false);" for n in range(1, 1 + tables))
    return change, undo


def _seeded(seed: int) -> Iterator[Case]:
    rows = f"a seed of {seed:,} rows"
    yield Case(
        f"update_one.{seed}",
        f"one row of {rows} updated",
        seed,
        "update t0 set name = 'changed' where id = 1",
        "update t0 set name = 'row 1' where id = 1",
    )
    yield Case(
        f"update_tenth.{seed}",
        f"every tenth row of {rows} updated",
        seed,
        "update t0 set name = 'changed' where id % 10 = 0",
        "update t0 set name = 'row ' || id where id % 10 = 0",
    )
    yield Case(
        f"insert.{seed}",
        f"a row added to {rows}",
        seed,
        "insert into t0 (name) values ('one')",
        f"delete from t0 where id > {seed}; select setval('t0_id_seq', {seed})",
    )


FEW_ROWS = Case("few", f"a row in each of {TOUCHED} of {TABLES} unseeded tables", 0, *_few(TOUCHED))
CASES = (FEW_ROWS, *_seeded(SMALL_SEED), *_seeded(LARGE_SEED))


@dataclass(frozen=True, slots=True)
class Effort:
    """Amount of measurement."""

    rounds: int = 5
    turns: int = 7


QUICK = Effort(rounds=1, turns=2)


@dataclass(slots=True)
class Bed:
    """A service on a server of its own. Of each template, it resets two databases, and one is undone by hand."""

    client: httpx.Client
    superuser: str
    events: Resets
    watching: psycopg.Connection
    by_hand: dict[str, psycopg.Connection] = field(default_factory=dict)

    @classmethod
    def opened(cls, stack: ExitStack, cases: Sequence[Case], *, python: str = sys.executable) -> Self:
        """Start the server and the service. Prepare the templates and pools of these cases."""
        data = stack.enter_context(data_directory())
        superuser = stack.enter_context(_postgres(data))
        served = stack.enter_context(serving(data, None, python, postgres=superuser))
        client = stack.enter_context(served.client())
        watching = stack.enter_context(psycopg.connect(superuser, autocommit=True))
        bed = cls(client, superuser, Resets(client), watching)
        for case in {one.template: one for one in cases}.values():
            register(client, case.template, *case.template_sql())
            pool = open_pool(client, case.template)
            resize(client, pool, 3)
            wait_until_ready(client, pool, 3)
            inside = superuser.rpartition("/")[0] + "/" + acquire(client, case.template)["database"]
            bed.by_hand[case.template] = stack.enter_context(psycopg.connect(inside, autocommit=True))
        return bed

    def reset(self, case: Case) -> Reset:
        """Let a holder make the change and leave. Return the reset, which begins when its backend has ended."""
        lease = acquire(self.client, case.template)
        with psycopg.connect(lease["url"], autocommit=True) as connection:
            connection.execute(case.change.encode())
        query = "SELECT FROM pg_stat_activity WHERE usename = %s"
        while self.watching.execute(query, [lease["user"]]).fetchone():
            pass
        self.events.skip()
        release(self.client, lease["id"])
        return self.events.of(lease["database_id"])

    def undo(self, case: Case) -> float:
        """Make the change in the third database, and undo it. Return the seconds of the latter."""
        connection = self.by_hand[case.template]
        connection.execute(case.change.encode())
        began = perf_counter()
        connection.execute(case.undo.encode())
        return perf_counter() - began

    def clone(self, case: Case) -> float:
        """Drop a clone of the template and create it. Return the seconds."""
        [template] = self.client.get("/v1/templates", params={"name": case.template}).json()["items"]
        found = self.watching.execute(
            "SELECT datname FROM pg_database WHERE starts_with(datname, %s)",
            [f"freshdb_t_{token_of(UUID(template['id']))}"],
        ).fetchone()
        assert found is not None
        self.watching.execute(f'CREATE DATABASE bench_clone TEMPLATE "{found[0]}"'.encode())
        began = perf_counter()
        self.watching.execute("DROP DATABASE bench_clone WITH (FORCE)")
        self.watching.execute(
            f'CREATE DATABASE bench_clone TEMPLATE "{found[0]}" STRATEGY file_copy'.encode()
        )
        taken = perf_counter() - began
        self.watching.execute("DROP DATABASE bench_clone WITH (FORCE)")
        return taken


@dataclass(slots=True)
class Measured:
    """The median of each round for one case, and the paths of its resets."""

    resets: list[float] = field(default_factory=list)
    undos: list[float] = field(default_factory=list)
    clones: list[float] = field(default_factory=list)
    paths: Counter[str] = field(default_factory=Counter)


def measure(run: Run) -> Findings:
    """Measure all cases, alternating."""
    effort = QUICK if run.quick else Effort()
    measured: dict[str, Measured] = defaultdict(Measured)
    with ExitStack() as stack:
        bed = Bed.opened(stack, CASES)
        for case in CASES:
            for _ in range(_NOT_COUNTED):
                bed.reset(case)
            bed.undo(case)
        for number in range(effort.rounds):
            first = number % len(CASES)
            for case in CASES[first:] + CASES[:first]:
                of_case = measured[case.name]
                turns = [(bed.reset(case), bed.undo(case), bed.clone(case)) for _ in range(effort.turns)]
                of_case.resets.append(median(reset.seconds for reset, _, _ in turns))
                of_case.undos.append(median(undo for _, undo, _ in turns))
                of_case.clones.append(median(clone for _, _, clone in turns))
                of_case.paths.update(reset.path for reset, _, _ in turns)
                run.log_progress(f"round {number + 1}: {case.name} {of_case.resets[-1] * 1e3:.2f} ms")
            run.calibrate()
    return _findings(effort, measured)


def _findings(effort: Effort, measured: dict[str, Measured]) -> Findings:
    rows = []
    figures: dict[str, float] = {}
    for case in CASES:
        one = measured[case.name]
        figures[f"{case.name}.reset.seconds"] = median(one.resets)
        figures[f"{case.name}.undo.seconds"] = median(one.undos)
        figures[f"{case.name}.clone.seconds"] = median(one.clones)
        figures[f"{case.name}.reset/clone"], of_clone = ratio(one.resets, one.clones)
        figures[f"{case.name}.reset/undo"], of_undo = ratio(one.resets, one.undos)
        paths = ", ".join(f"{path} {number}" for path, number in one.paths.most_common())
        seconds = [milliseconds(median(taken)) for taken in (one.resets, one.clones, one.undos)]
        rows.append([case.label, paths, *seconds, of_clone, of_undo])
    head = ["change", "paths", "reset, ms", "clone, ms", "undo, ms", "reset / clone", "reset / undo"]
    return Findings(
        settings=[
            (
                f"{effort.rounds} rounds of {effort.turns} turns per change, alternating. In each turn, a holder makes the "
                f"change in a database of {TABLES} tables and leaves, and the service resets the database. The seed is in "
                f"one table. The first {_NOT_COUNTED} resets of each change are not counted."
            ),
            (
                "The reset: the seconds in the service's own event. It begins when the holder's backend has exited, and "
                "the service has a session in the database unless it was rebuilt just before."
            ),
            (
                "The clone: DROP DATABASE and CREATE DATABASE … STRATEGY file_copy of the same template, alone, in the "
                "same turn. The undo: the SQL that undoes exactly this change, in an open session of another database, in "
                "the same turn. It restores neither planner statistics nor the order of rows, and proves nothing."
            ),
        ],
        tables=[
            Table(caption="A few rows in unseeded tables", head=head, rows=rows[:1]),
            Table(caption="Updated seeds", head=head, rows=rows[1:]),
        ],
        figures=figures,
    )


@contextmanager
def _postgres(data: Path) -> Iterator[str]:
    server = EmbeddedPostgres(data / "bench-postgres")
    dsn = asyncio.run(server.start())
    try:
        yield dsn
    finally:
        asyncio.run(server.stop())
