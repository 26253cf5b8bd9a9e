"""``make bench``: measures freshdb on this machine and writes ``docs/benchmarks.md``. No figure is typed by hand.

``python -m tests.benchmarks.run [--quick] [--into DIR] [SECTION …]`` runs all sections by default. ``--quick`` only shows
that every section works: durations are tiny, and files are written only with ``--into``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from tests.benchmarks import (
    autovacuum,
    factories,
    floor,
    guard,
    moving,
    pool_size,
    reuse,
    schema_size,
    small_changes,
    starting,
    suite,
    toolkit,
    turnover,
)
from tests.benchmarks.results import Findings, Report, Run, Section, busy_percent, machine
from tests.benchmarks.running import ROOT

SECTIONS: dict[str, tuple[str, Callable[[Run], Findings]]] = {
    "starting": ("Start, and acquires of ready databases", starting.measure),
    "turnover": ("Turnover", turnover.measure),
    "suite": ("A suite of small tests", suite.measure),
    "schema_size": ("Size of the schema", schema_size.measure),
    "small_changes": ("Resets of a few rows, and of updated seeds", small_changes.measure),
    "pool_size": ("Size of the pool", pool_size.measure),
    "reuse": ("One database, reused many times", reuse.measure),
    "autovacuum": ("Rebuilds on a server with autovacuum", autovacuum.measure),
    "floor": ("A reset and its floor", floor.measure),
    "toolkit": ("The toolkit: cleanup in place, and rollback", toolkit.measure),
    "guard": ("A suite with the guard", guard.measure),
    "factories": ("Rows created by factories", factories.measure),
    "moving": ("A legacy suite, step by step", moving.measure),
}
AGAINST = "against"
"""The section that ``tests.benchmarks.against`` measures."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the sections, print the results, write the page."""
    parser = argparse.ArgumentParser(prog="make bench", description="Measure, and write docs/benchmarks.md.")
    parser.add_argument(
        "sections", nargs="*", choices=[[], *SECTIONS], metavar="SECTION", help=", ".join(SECTIONS)
    )
    parser.add_argument(
        "--quick", action="store_true", help="short durations, to check that every section runs"
    )
    parser.add_argument("--into", type=Path, help="the directory of benchmarks.json and benchmarks.md (docs)")
    arguments = parser.parse_args(argv)
    into: Path | None = arguments.into or (None if arguments.quick else ROOT / "docs")
    for name in arguments.sections or SECTIONS:
        section = measured(name, quick=arguments.quick)
        print(Report(sections={name: section}).markdown([name]).partition("\n## ")[2])  # noqa: T201 - a command prints
        if into is not None:
            keep(name, section, into)


def measured(name: str, *, quick: bool) -> Section:
    """Measure one section."""
    title, measure = SECTIONS[name]
    run = Run(name, quick=quick)
    at, before = datetime.now(UTC), busy_percent()
    run.calibrate()
    findings = measure(run)
    run.calibrate()
    return Section(
        title=title,
        measured_at=at,
        machine=machine(),
        calibration=run.calibration(before, busy_percent()),
        quick=quick,
        findings=findings,
    )


def keep(name: str, section: Section, into: Path) -> None:
    """Add one section to the report, and keep the others."""
    report = Report.read(into / "benchmarks.json")
    report.sections[name] = section
    (into / "benchmarks.json").write_text(report.model_dump_json(indent=1) + "\n")
    (into / "benchmarks.md").write_text(report.markdown([*SECTIONS, AGAINST]))


if __name__ == "__main__":
    main()
