"""``python -m tests.load SECONDS`` (``make load SECONDS=300``): overload, with heartbeats that must not be late.

1,000 clients wait in the queue for 50 databases, and 100 more clients send requests while the queue is full. 100 leases in
the pools of 20 templates are renewed 500 times a second. Two clients of each of these templates lease and release. The exit
code is 1 if a goal was missed. A run of five minutes or more is written to ``docs/load.md``.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.benchmarks.running import (
    ROOT,
    Served,
    data_directory,
    open_pool,
    register,
    resize,
    serving,
    wait_until_ready,
)
from tests.load.outcome import Load, Outcome, Results
from tests.load.page import PAGE, page

LONG_SECONDS = 300
SQL = "create table item (id serial primary key, name text); insert into item (name) values ('apple')"


def run(load: Load, seconds: float) -> Outcome:
    """Apply the load to a service of its own for this time."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a socket for each client
    with (
        data_directory() as data,
        serving(data, None, **load.settings) as served,
        served.client() as client,
    ):
        _pools(client, load)
        queue_role = _role(served, "queue", load, clients=load.clients, excess=load.excess)
        pools_role = _role(
            served,
            "heartbeats",
            load,
            clients=load.clients_per_template,
            templates=load.templates,
            renewed_leases=load.renewed_leases,
            per_second=load.per_second,
        )
        for role in (queue_role, pools_role):
            if role.stdout is None or role.stdout.readline().strip() != "ready":
                raise RuntimeError("a role of the load did not start")
        print(f"all clients are connected: {seconds:.0f} s", flush=True)  # noqa: T201
        cpu, before, began = served.cpu(), _renewals(client), time.monotonic()
        time.sleep(seconds)
        cpu, after, taken = served.cpu() - cpu, _renewals(client), time.monotonic() - began
        return Outcome(
            seconds=taken,
            queue=_finish(queue_role, served.data / "queue.json"),
            heartbeats=_finish(pools_role, served.data / "heartbeats.json"),
            cpu=cpu,
            server_renewals={bound: after[bound] - before.get(bound, 0) for bound in after},
        )


def _pools(client: httpx.Client, load: Load) -> None:
    sizes = {"queue": load.databases}
    sizes |= {
        f"pool{number}": load.renewed_leases + load.clients_per_template for number in range(load.templates)
    }
    pools = {}
    for name, size in sizes.items():
        register(client, name, SQL, f"comment on table item is '{name}'")
        pools[name] = open_pool(client, name)
        resize(client, pools[name], size)
    for name, size in sizes.items():
        wait_until_ready(client, pools[name], size)


def _role(served: Served, name: str, load: Load, **arguments: float) -> subprocess.Popen[str]:
    options = {"hold-seconds": load.hold_seconds, "out": served.data / f"{name}.json"} | arguments
    words = [word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.load.callers", name, served.url, *words],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _finish(role: subprocess.Popen[str], results_file: Path) -> Results:
    """End a role, and return its results."""
    role.communicate()
    return Results(**json.loads(results_file.read_text()))


def _renewals(client: httpx.Client) -> dict[float, float]:
    return {
        float(sample.labels["le"]): sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        if family.name == "freshdb_renew_seconds"
        for sample in family.samples
        if sample.name.endswith("_bucket")
    }


def main() -> int:
    """Apply the load, and print the results."""
    parser = argparse.ArgumentParser(prog="python -m tests.load", description=__doc__)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--hold-seconds", type=float, default=2.0)
    arguments = parser.parse_args()
    load = Load(arguments.hold_seconds)
    text, met = page(run(load, arguments.seconds), load)
    print(text)  # noqa: T201
    if arguments.seconds >= LONG_SECONDS:
        PAGE.write_text(text)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
