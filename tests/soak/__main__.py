"""Run a soak: ``python -m tests.soak MINUTES [SEED] [--calm]`` (``make soak MINUTES=… SEED=… CALM=1``).

The exit code is 1 if the checker found an error, if objects were left over, or if a measure grew. The history is then kept.
Every run of five minutes or more is added to ``docs/soak.json``, whatever its result. ``docs/soak.md`` is written from all
of these runs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import textwrap
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.soak.holders import LEASES_OF_ONE_CLIENT
from tests.soak.installation import KILLED_REPLICAS, REPLICAS
from tests.soak.measures import BOUNDS
from tests.soak.run import CALM_HOLDERS, HOLDERS, Report, soak

DOCS = Path(__file__).parents[2] / "docs"
LONG_MINUTES = 5
_WIDTH = 125

TEXT = """# Soaks

Each line of the first table is a run of `make soak MINUTES=… SEED=…`. Holders work on {replicas} replicas, with both
isolations, over two managed PostgreSQL servers, one for the control plane, and Redis. The faults below happen one
after the other, at random. A seed repeats their order. Every holder writes its name into its database and reads it back.
All requests, answers and observations are recorded, and `tests/soak/checker.py` checks the record:

- No database has two holders, and no holder finds leftovers of another one.
- No lease is lost before its acknowledged end, and none is live long after it.
- The first request in a queue is served first.
- The URL of a released lease reaches nothing.

**{total:,} leases, {wrong} findings, {left} leftovers** 15 s after the last fault. In the runs since
the last finding: **{since:,} leases**.

| minutes | seed | faults | holders | leases | findings | left over | longest wait during a kill | acquire p50 · p95 · p99 |
|---:|---:|---|---:|---:|---:|---:|---:|---|
{runs}
{found}
The longest wait is that of the acquires during which one replica was killed and nothing else happened. In runs with all
faults, the pools are cold and the two processors are overloaded, which adds to the wait. With kills only (`CALM=1`:
{calm_holders} holders) it is the cost of a killed replica itself.

## Resources, after the warm-up and at the end

{never_killed} of the replicas is never killed, and is measured every second. The table compares two medians: of the time
from 30 to 50 % of a run, and of its last fifth. An increase above the bound is a finding.

| | bound | {seeds} |
|---|---|{lines}
{windows}

## Faults, in all runs

| fault | times |
|---|---:|
{faults}

## Operations, in all runs

| operation | done |
|---|---:|
{operations}

Refused operations (a reconnect with the URL of an ended lease must always be refused, the others failed because of faults):

| operation, outcome | times |
|---|---:|
{outcomes}
"""

CAUSES = {
    71: (
        "Clients stay with the replica that answers them. The measured replica had no client for half of the run, and "
        "then had all of them. Now holders create a new client every {leases} leases, and each asks another replica first."
    ),
    83: (
        "Two bugs in heartbeats. One arrived while its lease was being ended. It read the control plane just before "
        "the end, and wrote a deadline just after it. Another one reached a Redis that had come back from a snapshot and "
        "got old data. Both are fixed, and tests provoke them "
        "(`tests/integration/maintenance/test_recovery.py`). During this run, `make crash` used the same two processors, "
        "which caused most of the waiting."
    ),
    97: (
        "The control plane's server hung twice for ten seconds. In the two seconds between, some ended leases were "
        "not ended: if a reaper could not end a lease that it had claimed, it left the lease for five seconds. Now it "
        "passes the lease to the next round (`tests/integration/maintenance/test_recovery.py`). Also, the first request "
        "to a pool that did not exist yet got its ticket after some that came a second later. Now the pools exist "
        "before the run is checked."
    ),
}
"""Causes of the findings, by the seeds of their runs."""


def main() -> int:
    """Run a soak and print the report."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("minutes", type=float)
    parser.add_argument("seed", type=int, nargs="?", default=random.randrange(10**6))  # noqa: S311
    parser.add_argument("--calm", action="store_true", help="kills only, and few holders")
    arguments = parser.parse_args()
    report, history = asyncio.run(
        soak(
            arguments.minutes * 60,
            arguments.seed,
            holders=CALM_HOLDERS if arguments.calm else HOLDERS,
            calm=arguments.calm,
        )
    )
    print(report)  # noqa: T201
    if arguments.minutes >= LONG_MINUTES:
        add_run(report)
    if not (report.wrong or report.left):
        return 0
    history_path = Path(tempfile.gettempdir()) / f"freshdb-soak-{arguments.seed}.jsonl"
    history.write(history_path)
    print(f"history written to {history_path}")  # noqa: T201
    return 1


def add_run(report: Report, docs: Path = DOCS) -> None:
    """Add a run to the earlier ones, and write the page of all runs."""
    data_file = docs / "soak.json"
    runs: list[dict[str, Any]] = json.loads(data_file.read_text()) if data_file.exists() else []
    runs.append(asdict(report))
    data_file.write_text(json.dumps(runs, indent=1) + "\n")
    (docs / "soak.md").write_text(page(runs))


def page(runs: list[dict[str, Any]]) -> str:
    """Return the page ``docs/soak.md``."""
    return TEXT.format(
        calm_holders=CALM_HOLDERS,
        replicas=REPLICAS,
        never_killed=REPLICAS - KILLED_REPLICAS,
        total=_leases(runs),
        wrong=sum(len(run["wrong"]) for run in runs),
        left=sum(len(run["left"]) for run in runs),
        since=_leases(_since_the_last_finding(runs)),
        runs="\n".join(map(_run, runs)),
        seeds=" | ".join(f"seed {run['seed']}" for run in runs),
        lines="---|" * len(runs),
        found="".join(map(_cause, runs)),
        windows="\n".join(_resource(name, runs) for name in BOUNDS),
        faults=_rows(runs, "faults"),
        operations=_rows(runs, "counts"),
        outcomes=_rows(runs, "outcomes"),
    )


def _since_the_last_finding(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    last = max((n for n, run in enumerate(runs, start=1) if run["wrong"] or run["left"]), default=0)
    return runs[last:]


def _leases(runs: list[dict[str, Any]]) -> int:
    return sum(run["counts"].get("acquire", 0) for run in runs)


def _cause(run: dict[str, Any]) -> str:
    if not run["wrong"] or run["seed"] not in CAUSES:
        return ""
    text = f"Seed {run['seed']}. {CAUSES[run['seed']].format(leases=LEASES_OF_ONE_CLIENT)}"
    return "\n" + textwrap.fill(text, _WIDTH, break_on_hyphens=False) + "\n"


def _run(run: dict[str, Any]) -> str:
    waits = " · ".join(
        f"{run['waits_seconds'].get(share, 0) * 1e3:.0f} ms" for share in ("p50", "p95", "p99")
    )
    cells = (
        f"{run['seconds'] / 60:.0f}",
        run["seed"],
        "kills only" if run["calm"] else "all",
        run["holders"],
        f"{run['counts'].get('acquire', 0):,}",
        len(run["wrong"]),
        len(run["left"]),
        f"{run['kill_cost_seconds']:.1f} s",
        waits,
    )
    return f"| {' | '.join(map(str, cells))} |"


def _resource(name: str, runs: list[dict[str, Any]]) -> str:
    bound = BOUNDS[name]
    cells = [" → ".join(f"{value:.0f}" for value in run["windows"].get(name, ())) or "-" for run in runs]
    return f"| {name} | +{bound.share:.0%} + {bound.amount:.0f} | {' | '.join(cells)} |"


def _rows(runs: list[dict[str, Any]], key: str) -> str:
    numbers: Counter[str] = Counter()
    for run in runs:
        numbers.update(run[key])
    return "\n".join(f"| {name} | {number:,} |" for name, number in sorted(numbers.items()))


if __name__ == "__main__":
    sys.exit(main())
