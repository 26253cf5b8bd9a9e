"""Measured cost of a lease for each part: holders loop {acquire, connect, write, close, release} on a real site.

Processor seconds do not depend on other programs on the machine, but leases per second do. Therefore the use by other
programs is recorded, too.
"""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median
from typing import Final

import httpx
from pydantic import BaseModel

from tests.benchmarks.results import Run, percentile
from tests.benchmarks.running import (
    ROOT,
    open_pool,
    register,
    reset_each_database_once,
    resize,
    schema,
    wait_until_ready,
)
from tests.benchmarks.scaling.installation import SERVERS, Installation, machine_cpu_seconds

PARTS: Final = ("replica", "control", "server", "redis", "client")


class Round(BaseModel):
    """One round with a number of holders."""

    holders: int
    leases: int
    seconds: float
    cpu_seconds: dict[str, float]
    """Processor seconds by part."""
    others_cores: float
    """Cores that other programs used."""
    statements: float
    commands: float
    scripts: float
    by_replica: list[int]
    by_server: dict[str, int]
    acquire_p50_seconds: float
    acquire_p99_seconds: float

    @property
    def leases_per_second(self) -> float:
        """Turnover."""
        return self.leases / self.seconds


class Idle(BaseModel):
    """Cost per second of an idle replica."""

    cores: dict[str, float]
    """Cores by part. The managed servers are one part."""
    statements: float
    commands: float
    scripts: float


class Measured(BaseModel):
    """All measurements on the site."""

    replicas: int
    servers: int
    databases: int
    rounds: list[Round]
    idle: Idle

    def cpu_seconds(self, part: str) -> float:
        """Return the seconds per lease, above the use at rest: the median of the rounds with the most holders."""
        return median(
            (one.cpu_seconds[part] - self._at_rest(part) * one.seconds) / one.leases for one in self._full()
        )

    def per_lease(self, what: str) -> float:
        """Return ``statements``, ``commands`` or ``scripts`` per lease, computed in the same way."""
        at_rest = float(getattr(self.idle, what)) * self.replicas
        return median(
            (float(getattr(one, what)) - at_rest * one.seconds) / one.leases for one in self._full()
        )

    def _at_rest(self, part: str) -> float:
        return self.idle.cores.get(part, 0.0) * self.replicas

    def _full(self) -> list[Round]:
        most = max(one.holders for one in self.rounds)
        return [one for one in self.rounds if one.holders == most]


def measure(run: Run) -> Measured:
    """Start the site, measure it at rest, and run the holders."""
    holders, rounds, seconds, rest_seconds = (
        ((1, 4), 1, 1.5, 2.0) if run.quick else ((1, 4, 16), 3, 10.0, 30.0)
    )
    with Installation.opened() as installation:
        templates, databases = _pools(installation, max(holders))
        run.log_progress("at rest")
        idle = _idle(installation, rest_seconds)
        found = []
        for number in range(rounds):
            for many in holders:
                found.append(_round(installation, templates, many, seconds))
                run.log_progress(
                    f"round {number + 1}: {many} holders: {found[-1].leases_per_second:.1f} leases/s"
                )
            run.calibrate()
        return Measured(
            replicas=len(installation.replicas),
            servers=len(installation.managed),
            databases=databases,
            rounds=found,
            idle=idle,
        )


def _pools(installation: Installation, holders: int) -> tuple[dict[str, str], int]:
    """Create a template and its pool for each server. Return each template's server, and the number of databases.

    The service places the templates.
    """
    size = 8 + 2 * holders // SERVERS
    placed = {}
    with httpx.Client(base_url=installation.urls[0], timeout=120) as client:
        for number in range(SERVERS):
            name = f"shop{number}"
            register(client, name, schema())
            pool_id = open_pool(client, name)
            resize(client, pool_id, size)
            wait_until_ready(client, pool_id, size)
            reset_each_database_once(client, pool_id, name, size)
            placed[name] = client.get(f"/v1/pools/{pool_id}").json()["server"]
    return placed, size * SERVERS


def _idle(installation: Installation, seconds: float) -> Idle:
    before, began = installation.used(), time.perf_counter()
    time.sleep(seconds)
    used, taken = installation.used() - before, time.perf_counter() - began
    each = taken * len(installation.replicas)
    return Idle(
        cores={part: cpu / each for part, cpu in used.cpu_seconds.items()},
        statements=used.statements / each,
        commands=used.commands / each,
        scripts=used.scripts / each,
    )


def _round(installation: Installation, templates: dict[str, str], holders: int, seconds: float) -> Round:
    command = [
        *(
            sys.executable,
            "-m",
            "tests.benchmarks.client_loop",
            ",".join(installation.urls),
            ",".join(templates),
        ),
        *(f"--concurrency={holders}", f"--warm-up-leases={4 * holders}", f"--seconds={seconds}"),
    ]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as clients:
        assert clients.stdout is not None
        _expect(clients.stdout.readline(), "began")
        before, busy = installation.used(), machine_cpu_seconds()
        _expect(clients.stdout.readline(), "ended")
        busy = machine_cpu_seconds() - busy
        used = installation.used() - before
        results = ClientResults.model_validate_json(clients.stdout.read())
    cpu_seconds = used.cpu_seconds | {"client": results.cpu_seconds}
    return Round(
        holders=holders,
        leases=results.leases,
        seconds=results.seconds,
        cpu_seconds=cpu_seconds,
        others_cores=max(0.0, busy - sum(cpu_seconds.values())) / results.seconds,
        statements=used.statements,
        commands=used.commands,
        scripts=used.scripts,
        by_replica=results.by_url,
        by_server=_by_server(templates, results.by_template),
        acquire_p50_seconds=percentile(results.acquires, 50),
        acquire_p99_seconds=percentile(results.acquires, 99),
    )


def _by_server(templates: dict[str, str], leases: list[int]) -> dict[str, int]:
    found = dict.fromkeys(sorted(templates.values()), 0)
    for server, number in zip(templates.values(), leases, strict=True):
        found[server] += number
    return found


class ClientResults(BaseModel):
    """Results of the clients in one round."""

    leases: int
    by_url: list[int]
    by_template: list[int]
    seconds: float
    cpu_seconds: float
    acquires: list[float]


def _expect(line: str, word: str) -> None:
    if line.strip() != word:
        raise RuntimeError(f"the clients printed {line!r} instead of {word}: see above")
