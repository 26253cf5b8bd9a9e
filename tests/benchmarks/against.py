"""``make bench-against COMMIT=…``: compares this tree's service with that of another commit, in one run.

``python -m tests.benchmarks.against [--quick] COMMIT`` checks the commit out into a temporary directory, with an environment
of its own. The clients and the benchmark are those of this tree in both cases. Only the service and its engine differ. So
the other commit needs ``make install``, the command ``freshdb serve`` and the HTTP API, and no file of the benchmarks.

Two things are measured, and the two trees alternate in each round:

- turnover at 8 clients, as in the section ``turnover``, on embedded servers of each tree
- the reset of a row in each of 3 of 30 unseeded tables, as in the section ``small_changes``, on servers of this tree
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from tests.benchmarks.results import (
    Findings,
    Report,
    Run,
    Section,
    Table,
    busy_percent,
    machine,
    milliseconds,
    ratio,
)
from tests.benchmarks.run import AGAINST, keep
from tests.benchmarks.running import ROOT
from tests.benchmarks.small_changes import FEW_ROWS, Bed
from tests.benchmarks.turnover import FRESHDB, GOAL_AT, measured_variant

HERE, OTHER = "this tree", "the other"
_NOT_COUNTED = 6


@dataclass(frozen=True, slots=True)
class Effort:
    """Amount of measurement."""

    rounds: int = 12
    seconds: float = 4.0
    turns: int = 15


QUICK = Effort(rounds=1, seconds=1.0, turns=2)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the results, and write them to the page if this is requested."""
    parser = argparse.ArgumentParser(prog="make bench-against", description="Compare with another commit.")
    parser.add_argument("commit", help="the commit to compare with")
    parser.add_argument("--quick", action="store_true", help="short durations, to check that it runs")
    parser.add_argument("--into", type=Path, help="the directory of benchmarks.json and benchmarks.md (docs)")
    arguments = parser.parse_args(argv)
    effort = QUICK if arguments.quick else Effort()
    for signal_number in (signal.SIGTERM, signal.SIGHUP):  # remove the worktree and the servers then, too
        signal.signal(signal_number, lambda number, _frame: sys.exit(128 + number))
    run = Run(AGAINST, quick=arguments.quick)
    here = _git("describe", "--always", "--dirty").strip()
    with checked_out(arguments.commit) as (commit, python):
        at, before, load = datetime.now(UTC), busy_percent(), os.getloadavg()[0]
        run.calibrate()
        rows, figures = _turnover(run, effort, python)
        rows_of_resets, figures_of_resets = _few_rows(run, effort, python)
        run.calibrate()
        calibration = run.calibration(before, busy_percent())
    section = Section(
        title="Compared with an earlier commit",
        command=f"make bench-against COMMIT={commit}",
        measured_at=at,
        machine=machine(),
        calibration=f"{calibration}. The load average was {load:.1f} before, {os.getloadavg()[0]:.1f} after",
        quick=arguments.quick,
        findings=Findings(
            settings=_settings(effort, here, commit),
            tables=[
                Table(
                    caption="",
                    head=["measurement", "this tree", f"commit {commit}", "difference", "ratio", "goal"],
                    rows=[*rows, *rows_of_resets],
                )
            ],
            figures=figures | figures_of_resets,
        ),
    )
    print(Report(sections={AGAINST: section}).markdown([AGAINST]).partition("\n## ")[2])  # noqa: T201 - a command prints
    if arguments.into is not None:
        keep(AGAINST, section, arguments.into)


def _settings(effort: Effort, here: str, commit: str) -> list[str]:
    return [
        (
            f"This tree is {here}. The service of {commit} runs in an environment of its own, with the packages that it "
            "pins. The clients are the same for both."
        ),
        (
            f"Turnover: as in the section `turnover`, with {GOAL_AT} clients. {effort.rounds} rounds of "
            f"{effort.seconds:g} s of each tree, alternating, on embedded servers of its own."
        ),
        (
            f"Reset: as in the section `small_changes`. {effort.rounds} rounds of {effort.turns} resets of each tree, "
            "alternating. Each service has a PostgreSQL of its own, with the settings of this tree."
        ),
    ]


@contextmanager
def checked_out(commit: str) -> Iterator[tuple[str, str]]:
    """Check a commit out, and install it. Yield its short name, and the interpreter of its environment."""
    name = _git("rev-parse", "--short", f"{commit}^{{commit}}").strip()
    directory = Path(tempfile.mkdtemp(prefix="freshdb-against-"))
    directory.chmod(0o755)  # PostgreSQL's user reads its programs there
    tree = directory / "tree"
    try:
        _git("worktree", "add", "--quiet", "--detach", str(tree), name)
        try:
            # Without the variables of the ``make`` that runs this.
            environment = {
                key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))
            }
            command = ["make", "install", "VENV=.venv"]
            subprocess.run(command, cwd=tree, env=environment, stdout=sys.stderr, check=True)
            yield name, str(tree / ".venv" / "bin" / "python")
        finally:
            _git("worktree", "remove", "--force", str(tree))
    finally:
        shutil.rmtree(directory)


def _turnover(run: Run, effort: Effort, other: str) -> tuple[list[list[str]], dict[str, float]]:
    per_second: dict[str, list[float]] = defaultdict(list)
    with ExitStack() as stack:
        measured = {
            HERE: measured_variant(stack, FRESHDB),
            OTHER: measured_variant(stack, FRESHDB, python=other),
        }
        size = 2 * GOAL_AT + 8
        for one in measured.values():
            one.prepare(size)
        for number in range(effort.rounds):
            for name in _order(number):
                found = measured[name].round(GOAL_AT, size, effort.seconds)
                per_second[name].append(found.leases_per_second)
                run.log_progress(f"turnover, round {number + 1}: {name} {per_second[name][-1]:.0f}/s")
            run.calibrate()
        for one in measured.values():
            one.verify()
    return _compared(f"turnover at {GOAL_AT} clients, leases/s", "turnover", per_second, "{:.0f}", "≥ 0.95")


def _few_rows(run: Run, effort: Effort, other: str) -> tuple[list[list[str]], dict[str, float]]:
    rounds: dict[str, list[float]] = defaultdict(list)
    with ExitStack() as stack:
        beds = {
            HERE: Bed.opened(stack, [FEW_ROWS]),
            OTHER: Bed.opened(stack, [FEW_ROWS], python=other),
        }
        for bed in beds.values():
            for _ in range(_NOT_COUNTED):
                bed.reset(FEW_ROWS)
        for number in range(effort.rounds):
            turns: dict[str, list[float]] = defaultdict(list)
            for turn in range(effort.turns):
                for name in _order(turn):
                    turns[name].append(beds[name].reset(FEW_ROWS).seconds)
            for name, seconds in turns.items():
                rounds[name].append(median(seconds))
            run.log_progress(
                f"few rows, round {number + 1}: "
                + ", ".join(f"{name} {milliseconds(rounds[name][-1])} ms" for name in beds)
            )
            run.calibrate()
    in_ms = {name: [one * 1e3 for one in seconds] for name, seconds in rounds.items()}
    return _compared(f"reset of {FEW_ROWS.label}, ms", "reset_ms", in_ms, "{:.2f}", "difference ≤ 0.25")


def _compared(
    label: str, name: str, rounds: Mapping[str, Sequence[float]], form: str, goal: str
) -> tuple[list[list[str]], dict[str, float]]:
    """Return the row and the figures of one measurement."""
    more = [here - there for here, there in zip(rounds[HERE], rounds[OTHER], strict=True)]
    middle, text = ratio(rounds[HERE], rounds[OTHER])
    medians = {side: median(values) for side, values in rounds.items()}
    difference = f"{form} ({form} to {form})".format(median(more), min(more), max(more))
    row = [label, form.format(medians[HERE]), form.format(medians[OTHER]), difference, text, goal]
    figures = {f"{name}.here": medians[HERE], f"{name}.other": medians[OTHER], f"{name}.ratio": middle}
    return [row], {**figures, f"{name}.difference": median(more)}


def _order(number: int) -> tuple[str, str]:
    """Return the trees in the order of this round: each is the first every other time."""
    return (OTHER, HERE) if number % 2 else (HERE, OTHER)


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout


if __name__ == "__main__":
    main()
