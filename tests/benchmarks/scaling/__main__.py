"""``make scaling``: measures freshdb's capacity here, simulates larger fleets, and writes ``docs/scaling.md``.

``python -m tests.benchmarks.scaling [--quick] [--into DIR] [PART …]`` runs ``measured``, ``growth`` and ``simulated``, by
default all. ``--quick`` only shows that it works: durations are tiny, and files are written only with ``--into``.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from tests.benchmarks.results import Run, busy_percent
from tests.benchmarks.scaling import growth, measured
from tests.benchmarks.scaling.findings import DOCS, Findings, Part, Simulated
from tests.benchmarks.scaling.fleet import Basis
from tests.benchmarks.scaling.page import page
from tests.benchmarks.scaling.plans import PLANS, REMEDIES

PARTS = ("measured", "growth", "simulated")


def main() -> None:
    """Measure, simulate, print the results, write the page."""
    parser = argparse.ArgumentParser(prog="make scaling", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="short durations, to check that every part runs")
    parser.add_argument("--into", type=Path, help="the directory of scaling.json and scaling.md (docs)")
    arguments = parser.parse_args()
    into: Path | None = arguments.into or (None if arguments.quick else DOCS)
    findings = Findings() if into is None else Findings.read(into)
    for name in arguments.parts or PARTS:
        run, busy = Run(name, quick=arguments.quick), busy_percent()
        run.calibrate()
        if name == "measured":
            findings.measured = Part.of(run, busy, measured.measure(run))
        elif name == "growth":
            findings.growth = Part.of(run, busy, asyncio.run(growth.measure(run)))
        else:
            findings.simulated = _simulated(findings, run)
        if into is not None:
            (into / "scaling.json").write_text(findings.model_dump_json(indent=1) + "\n")
    text = page(findings)
    print(text)  # noqa: T201 - a command prints
    if into is not None:
        (into / "scaling.md").write_text(text)


def _simulated(findings: Findings, run: Run) -> Simulated:
    if findings.measured is None or findings.growth is None:
        raise SystemExit("no measurements to simulate from: run make scaling PARTS='measured growth' first")
    basis = Basis(findings.measured.found, findings.growth.found)
    leases = 1_000 if run.quick else 20_000
    run.log_progress("validation")
    validations = basis.validation(10 if run.quick else 200)
    forecasts = []
    for plan in PLANS:
        run.log_progress(f"{plan.holders} holders")
        forecasts.append(basis.forecast(plan, leases))
    remedies = {}
    for what, plan in REMEDIES.items():
        run.log_progress(what)
        remedies[what] = basis.forecast(plan, leases)
    return Simulated(validations=validations, forecasts=forecasts, remedies=remedies)


if __name__ == "__main__":
    main()
