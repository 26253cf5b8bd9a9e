"""``python -m tests.soak MINUTES [SEED]`` (``make soak MINUTES=…``).

It ends with 1 if anything was wrong, or left over, and keeps the history then. A run of five minutes or more that found
nothing wrong is written to ``docs/soak.md``.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from pathlib import Path

from tests.soak.run import HOLDERS, Report, soak

PAGE = Path(__file__).parents[2] / "docs" / "soak.md"
LONG_MINUTES = 5

TEXT = """# A soak

`make soak MINUTES=… SEED=…` wrote this page: {holders} holders on three replicas, with both isolations, over
two managed PostgreSQL servers, one for the control plane, and one Redis, while the faults below happened one after the
other. Every holder writes who it is into its database and reads it back. Everything that was asked, answered and seen is
written down, and `tests/soak/checker.py` judges it: no two holders of one database, nothing found that somebody else had
left, nothing lost before its acknowledged end, first come first served, and no way in with the URL of a lease that was
given back.

{minutes:.0f} minutes, seed {seed}: **{leases:,} leases, {wrong} findings, {left} things left over** 15 s after the last
fault.

| operation | done |
|---|---:|
{operations}

| fault | times |
|---|---:|
{faults}

Acquire: {waits}. The longest wait during which a replica was killed: {kill_cost:.1f} s.

What was refused (a knock, with the URL of a lease that was given back, always should be; the rest because of faults):

| operation, outcome | times |
|---|---:|
{outcomes}
"""


def main() -> int:
    """Soak, and say what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("minutes", type=float)
    parser.add_argument("seed", type=int, nargs="?", default=random.randrange(10**6))  # noqa: S311
    asked = parser.parse_args()
    report, history = asyncio.run(soak(asked.minutes * 60, asked.seed))
    print(report)  # noqa: T201
    if not (report.wrong or report.left):
        if asked.minutes >= LONG_MINUTES:
            PAGE.write_text(page(report))
        return 0
    kept = Path(tempfile.gettempdir()) / f"freshdb-soak-{asked.seed}.jsonl"
    history.write(kept)
    print(f"the history is in {kept}")  # noqa: T201
    return 1


def page(report: Report) -> str:
    """For people to read."""
    return TEXT.format(
        holders=HOLDERS,
        minutes=report.seconds / 60,
        seed=report.seed,
        leases=report.counts.get("acquire", 0),
        wrong=len(report.wrong),
        left=len(report.left),
        operations=_rows(report.counts),
        faults=_rows(report.faults),
        waits=", ".join(f"{name} {value * 1e3:.0f} ms" for name, value in report.waits_seconds.items()),
        kill_cost=report.kill_cost_seconds,
        outcomes=_rows(report.outcomes),
    )


def _rows(numbers: dict[str, int]) -> str:
    return "\n".join(f"| {name} | {number:,} |" for name, number in sorted(numbers.items()))


if __name__ == "__main__":
    sys.exit(main())
