"""The measured site: three replicas, four managed PostgreSQL servers, one for the control plane, and one Redis, all real.

Each has its own processes, so that the use of each can be measured separately. Processor seconds of a server include its
processes that have ended.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import psutil
import psycopg
import redis

from freshdb_service.embedded import EmbeddedPostgres, EmbeddedRedis
from tests.benchmarks.running import data_directory
from tests.runs import run_sync
from tests.services import Service, start_service

REPLICAS: Final = 3
SERVERS: Final = 4
SETTINGS: Final = {"min_ready": 1, "access_log": False}


@dataclass(frozen=True, slots=True)
class Used:
    """Use of resources since the start, or between two measurements.

    Attributes:
        cpu_seconds: processor seconds by part.
        statements: transactions of the control plane's database. Nearly all have one statement.
        commands: commands that Redis has run, including those within scripts.
        scripts: scripts that Redis has run.
    """

    cpu_seconds: dict[str, float]
    statements: float
    commands: float
    scripts: float

    def __sub__(self, before: Used) -> Used:
        """Return the use between two measurements."""
        return Used(
            {part: now - before.cpu_seconds[part] for part, now in self.cpu_seconds.items()},
            self.statements - before.statements,
            self.commands - before.commands,
            self.scripts - before.scripts,
        )


@dataclass(frozen=True, slots=True)
class Installation:
    """All servers and replicas of a running site."""

    replicas: list[Service]
    control: EmbeddedPostgres
    managed: list[EmbeddedPostgres]
    keys: EmbeddedRedis

    @classmethod
    @contextmanager
    def opened(cls) -> Iterator[Installation]:
        """Start the site, and stop it at the end of the block."""
        with data_directory() as directory, ExitStack() as stack:
            control, *managed = (
                EmbeddedPostgres(directory / name)
                for name in ("control", *(f"s{n}" for n in range(1, SERVERS + 1)))
            )
            keys = EmbeddedRedis(directory / "redis")

            def started(server: EmbeddedPostgres | EmbeddedRedis) -> str:
                stack.callback(lambda: run_sync(server.stop()))
                return run_sync(server.start())

            control_dsn, *dsns = (started(server) for server in (control, *managed))
            url = started(keys)
            replicas: list[Service] = []
            for _ in range(REPLICAS):
                replica = start_service(
                    [f"s{n}={dsn}" for n, dsn in enumerate(dsns, start=1)],
                    url,
                    settings=SETTINGS,
                    replica_of=replicas[0] if replicas else None,
                    control=control_dsn,
                )
                stack.callback(shutil.rmtree, replica.data)
                stack.callback(replica.stop)
                replicas.append(replica)
            yield cls(replicas, control, managed, keys)

    @property
    def urls(self) -> list[str]:
        """URLs of the replicas."""
        return [replica.url for replica in self.replicas]

    def used(self) -> Used:
        """Measure the use since the start."""
        with psycopg.connect(self.replicas[0].control_dsn, autocommit=True) as connection:
            row = connection.execute(
                "select xact_commit + xact_rollback from pg_stat_database where datname = current_database()"
            ).fetchone()
        with redis.Redis.from_url(self.replicas[0].redis_url) as client:
            stats = cast("dict[str, dict[str, float]]", client.info("commandstats"))
        return Used(
            {
                "replica": sum(cpu_seconds(replica.process.pid) for replica in self.replicas),
                "control": cpu_seconds(_pid(self.control.data / "cluster" / "postmaster.pid")),
                "server": sum(
                    cpu_seconds(_pid(one.data / "cluster" / "postmaster.pid")) for one in self.managed
                ),
                "redis": cpu_seconds(_pid(self.keys.data / "redis.pid")),
            },
            float(row[0]) if row else 0.0,
            sum(one["calls"] for one in stats.values()),
            stats.get("cmdstat_evalsha", {"calls": 0})["calls"],
        )


def cpu_seconds(pid: int) -> float:
    """Return the processor seconds of a process and its descendants. Ended children count once they are reaped."""
    top = psutil.Process(pid)
    used = 0.0
    for process in (top, *top.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            used += times.user + times.system + times.children_user + times.children_system
    return used


def machine_cpu_seconds() -> float:
    """Return the processor seconds of all processes, as far as the machine counts them."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


def _pid(path: Path) -> int:
    return int(path.read_text().split()[0])
