"""Section ``turnover``: leases per second, compared with other ways to clean databases behind the same service."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

import httpx
import psycopg
from pydantic import BaseModel

from tests.benchmarks.client_loop import TOUCHED
from tests.benchmarks.results import Findings, Run, Table, milliseconds, percentile, ratio
from tests.benchmarks.running import (
    DATA_LOCATION,
    ROOT,
    TABLES,
    Cpu,
    Served,
    acquire,
    data_directory,
    open_pool,
    register,
    release,
    reset_each_database_once,
    resize,
    schema,
    serving,
    wait_until_ready,
)

TEMPLATE = "turnover"
_VERIFIED = 3


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to clean databases."""

    name: str
    label: str
    engine: str | None = None
    clone_strategy: str = "auto"
    leaves_rows: bool = False


FRESHDB = Variant("freshdb", "freshdb")
VARIANTS = (
    FRESHDB,
    Variant("nothing", "(a) no cleaning: the upper limit", "nothing", leaves_rows=True),
    Variant("recreate_wal_log", "(b) drop and create, `wal_log`", "recreate", "wal_log"),
    Variant("recreate_file_copy", "(b2) drop and create, `file_copy`", "recreate", "file_copy"),
    Variant("truncate", f"(c) truncate all {TABLES} tables", "truncate"),
)
GOALS = {  # for the ratio at concurrency 8
    "nothing": "≥ 0.75",
    "recreate_wal_log": "≥ 4",
    "recreate_file_copy": "≥ 2",
}
GOAL_AT = 8


@dataclass(frozen=True, slots=True)
class Effort:
    """Amount of measurement."""

    concurrencies: tuple[int, ...] = (1, 2, 8, 32)
    rounds: int = 5
    seconds: float = 4.0

    @staticmethod
    def pool_size(concurrency: int) -> int:
        """Return the number of databases: twice the number of leases, and a few more."""
        return 2 * concurrency + 8


QUICK = Effort(concurrencies=(1, 8), rounds=1, seconds=1.5)


class ClientResults(BaseModel):
    """Results of the clients in one round."""

    leases: int
    seconds: float
    cpu_seconds: float
    acquires: list[float]


@dataclass(frozen=True, slots=True)
class Round:
    """One round of one variant."""

    results: ClientResults
    cpu: Cpu

    @property
    def leases_per_second(self) -> float:
        """Turnover."""
        return self.results.leases / self.results.seconds


@dataclass(frozen=True, slots=True)
class MeasuredVariant:
    """A variant's service and its pool."""

    variant: Variant
    served: Served
    client: httpx.Client
    pool_id: str

    def prepare(self, size: int) -> None:
        """Resize the pool, use every database once, and pause the service."""
        self.served.resume()
        resize(self.client, self.pool_id, size)
        wait_until_ready(self.client, self.pool_id, size)
        reset_each_database_once(self.client, self.pool_id, TEMPLATE, size)
        self.served.pause()

    def verify(self) -> None:
        """Check that leased databases are clean, or have rows if this variant cleans nothing.

        Raises:
            RuntimeError: they are not, so the variant has not done the work that is measured.
        """
        self.served.resume()
        leases = [acquire(self.client, TEMPLATE) for _ in range(_VERIFIED)]
        found = set()
        for lease in leases:
            with psycopg.connect(lease["url"], autocommit=True) as connection:
                found |= {n for n in range(TABLES) if connection.execute(f"TABLE t{n}".encode()).fetchone()}
        if bool(found) != self.variant.leaves_rows:
            raise RuntimeError(f"{self.variant.name}: rows in {sorted(found) or 'no table'}")
        for lease in leases:
            release(self.client, lease["id"])
        self.served.pause()

    def round(self, concurrency: int, size: int, seconds: float) -> Round:
        """Run the clients for one round."""
        self.served.resume()
        try:
            wait_until_ready(self.client, self.pool_id, size)
            command = [
                *(sys.executable, "-m", "tests.benchmarks.client_loop", self.served.url, TEMPLATE),
                *(f"--concurrency={concurrency}", f"--warm-up-leases={2 * size}", f"--seconds={seconds}"),
            ]
            with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as clients:
                assert clients.stdout is not None
                _expect(clients.stdout.readline(), "began")
                before = self.served.cpu()
                _expect(clients.stdout.readline(), "ended")
                used = self.served.cpu() - before
                results = ClientResults.model_validate_json(clients.stdout.read())
            wait_until_ready(self.client, self.pool_id, size)
            return Round(results, used)
        finally:
            self.served.pause()


def measure(run: Run) -> Findings:
    """Run all variants, alternating."""
    effort = QUICK if run.quick else Effort()
    rounds: dict[int, dict[str, list[Round]]] = {one: defaultdict(list) for one in effort.concurrencies}
    with ExitStack() as stack:
        measured_variants = [measured_variant(stack, variant) for variant in VARIANTS]
        for concurrency in effort.concurrencies:
            size = effort.pool_size(concurrency)
            for each in measured_variants:
                each.prepare(size)
            for number in range(effort.rounds):
                # Each round begins with another variant. After the same neighbour, a variant would always find the same
                # machine.
                first = number % len(measured_variants)
                for each in measured_variants[first:] + measured_variants[:first]:
                    one = each.round(concurrency, size, effort.seconds)
                    rounds[concurrency][each.variant.name].append(one)
                    run.log_progress(
                        f"concurrency {concurrency}, round {number + 1}: {each.variant.name} "
                        f"{one.leases_per_second:.0f}/s"
                    )
                run.calibrate()
            for each in measured_variants:
                each.verify()
    return _findings(effort, rounds)


def measured_variant(stack: ExitStack, variant: Variant, *, python: str = sys.executable) -> MeasuredVariant:
    """Start a variant's service, in the environment of this interpreter, and pause it."""
    data = stack.enter_context(data_directory())
    served = stack.enter_context(serving(data, variant.engine, python, clone_strategy=variant.clone_strategy))
    client = stack.enter_context(served.client())
    register(client, TEMPLATE, schema())
    measured = MeasuredVariant(variant, served, client, open_pool(client, TEMPLATE))
    served.pause()
    return measured


def _findings(effort: Effort, rounds: dict[int, dict[str, list[Round]]]) -> Findings:
    figures: dict[str, float] = {}
    turnover, ratios = [], []
    for concurrency, by_name in rounds.items():
        ours = [one.leases_per_second for one in by_name[FRESHDB.name]]
        for variant in VARIANTS:
            key = f"{variant.name}.{concurrency}"
            turnover.append([str(concurrency), *_row(variant, by_name[variant.name], figures, key)])
            if variant is not FRESHDB:
                theirs = [one.leases_per_second for one in by_name[variant.name]]
                figures[f"freshdb/{key}"], text = ratio(ours, theirs)
                goal = GOALS.get(variant.name, "") if concurrency == GOAL_AT else ""
                ratios.append([str(concurrency), f"freshdb / {variant.label}", text, goal])
    return Findings(
        settings=[
            (
                f"Each client loops {{acquire, connect, insert a row into {TOUCHED} of {TABLES} tables, "
                "close, release}. HTTP over a kept-alive connection, asyncpg, all clients in one "
                "process on the same machine."
            ),
            (
                f"{effort.rounds} rounds of {effort.seconds:g} s per variant, alternating. Each begins after two "
                "seconds and twice as many leases as there are databases, which are not counted. So all variants use "
                "databases that were cleaned during the measurement, not only databases that were ready before. Each "
                "variant is a service of its own with servers of its own, paused while another is measured."
            ),
            (
                "Pool: 8 databases and two per client, the same for all, each reset once before. Embedded "
                f"PostgreSQL and Redis, default settings (16 resets at once), {DATA_LOCATION}."
            ),
            (
                "The others neither fence nor change the login, nor close it at the release: each database "
                "keeps its first login. (a) does nothing. (b) and (b2) are only DROP DATABASE and CREATE "
                "DATABASE … TEMPLATE. (c) connects and truncates."
            ),
            "Processor time: of each process during the measurement, per lease.",
        ],
        tables=[
            Table(
                caption="Turnover",
                head=[
                    "clients",
                    "cleaned by",
                    "leases/s",
                    "acquire p50",
                    "p95",
                    "p99, ms",
                    "CPU ms/lease: service",
                    "PostgreSQL",
                    "Redis",
                    "client process",
                ],
                rows=turnover,
            ),
            Table(
                caption="Ratios of leases per second", head=["clients", "of", "ratio", "goal"], rows=ratios
            ),
        ],
        figures=figures,
    )


def _row(variant: Variant, rounds: list[Round], figures: dict[str, float], key: str) -> list[str]:
    leases = sum(one.results.leases for one in rounds)
    acquires = [taken for one in rounds for taken in one.results.acquires]
    found = {
        "leases_per_second": median(one.leases_per_second for one in rounds),
        **{f"acquire_p{percent}_seconds": percentile(acquires, percent) for percent in (50, 95, 99)},
        "service_cpu_seconds": sum(one.cpu.service for one in rounds) / leases,
        "postgres_cpu_seconds": sum(one.cpu.postgres for one in rounds) / leases,
        "redis_cpu_seconds": sum(one.cpu.redis for one in rounds) / leases,
        "client_cpu_seconds": sum(one.results.cpu_seconds for one in rounds) / leases,
    }
    figures |= {f"{key}.{name}": number for name, number in found.items()}
    first, *others = found.values()
    return [variant.label, f"{first:.0f}", *(milliseconds(one) for one in others)]


def _expect(line: str, word: str) -> None:
    if line.strip() != word:
        raise RuntimeError(f"the clients printed {json.dumps(line)} instead of {word}: see above")
