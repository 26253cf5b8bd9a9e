"""Send calls that no sensible client sends: ``python -m tests.fuzz CASES [SEED]`` (``make fuzz CASES=20000``).

schemathesis creates them from the OpenAPI document, with one seed after another, until there are enough cases. The command
stops at the first failure, prints it, and ends with the exit code 1. The result of 20,000 cases or more is written to
``docs/hostile-callers.md``, between its two marks.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from tests.benchmarks.running import data_directory, serving
from tests.fuzz.running import SETTINGS, fuzz, prepare

PAGE = Path(__file__).parents[2] / "docs" / "hostile-callers.md"
BEGIN, END = "<!-- make fuzz: begin -->\n", "<!-- make fuzz: end -->\n"
MANY_CASES = 20_000
EXAMPLES = 150
PARALLEL_RUNS = 2
"""Number of parallel runs, each with a seed of its own."""
PHASES = "examples,coverage,fuzzing,stateful"


def main() -> int:
    """Run the cases, and write or print the result."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("cases", type=int)
    parser.add_argument("seed", type=int, nargs="?", default=1)
    arguments = parser.parse_args()
    cases, seed, began = 0, arguments.seed, time.monotonic()
    with data_directory() as data, serving(data, None, **SETTINGS) as served:
        prepare(served.url)
        while cases < arguments.cases:
            with ThreadPoolExecutor(PARALLEL_RUNS) as runs:
                seeds = range(seed, seed + PARALLEL_RUNS)
                found = list(
                    runs.map(lambda one: fuzz(served.url, examples=EXAMPLES, seed=one, phases=PHASES), seeds)
                )
            for one, done in zip(seeds, found, strict=True):
                cases += done.cases
                print(f"seed {one}: {done.cases} cases, {cases} in total", flush=True)  # noqa: T201
                if not done.passed or "Traceback" in served.log:
                    print(done.output, served.log, sep="\n")  # noqa: T201
                    return 1
            seed += PARALLEL_RUNS
    minutes = (time.monotonic() - began) / 60
    if cases >= MANY_CASES:
        _write(
            f"{datetime.now(UTC):%Y-%m-%d}, schemathesis {version('schemathesis')}, Python {platform.python_version()}, "
            f"seeds {arguments.seed} to {seed - 1}: **{cases:,} cases in {minutes:.0f} minutes, 0 failures of any check**, "
            "and no traceback in the service's log.\n"
        )
    return 0


def _write(figures: str) -> None:
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + BEGIN + figures + END + after)


if __name__ == "__main__":
    sys.exit(main())
