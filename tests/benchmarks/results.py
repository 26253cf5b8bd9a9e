"""What a section found, kept in ``docs/benchmarks.json`` and written out as ``docs/benchmarks.md``.

One section can be measured anew without losing the others. Each keeps the day, the machine and the versions it was measured
with, and how long a fixed loop of plain Python took before, during and after it: where that varies, the machine was busy or
slowed down, and only figures of the same round can be compared.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

import psutil
from pydantic import BaseModel

_LOOP_TURNS = 1_000_000
_LOOK_SECONDS = 1.0
_PACKAGES = ("fastapi", "uvicorn", "sqlalchemy", "asyncpg", "redis", "httpx", "pytest")


class Table(BaseModel):
    """One table: a line about it, its head, its rows."""

    caption: str
    head: list[str]
    rows: list[list[str]]


class Findings(BaseModel):
    """What a section measured.

    Attributes:
        settings: how it was measured, one sentence or two each.
        tables: for readers.
        figures: the same for programs: name and number.
    """

    settings: list[str]
    tables: list[Table]
    figures: dict[str, float] = {}


class Section(BaseModel):
    """Findings, and what is needed to judge them."""

    title: str
    measured_at: datetime
    machine: str
    calibration: str
    quick: bool
    findings: Findings


class Report(BaseModel):
    """All sections, by name."""

    sections: dict[str, Section] = {}

    @classmethod
    def read(cls, path: Path) -> Report:
        """Read what earlier runs have found; nothing, if there is none."""
        return cls.model_validate_json(path.read_text()) if path.exists() else cls()

    def markdown(self, order: Sequence[str]) -> str:
        """Write it for readers, sections in this order."""
        lines = [
            "# Benchmarks",
            "",
            (
                "`make bench` writes this page from `benchmarks.json`. No figure is typed by hand. "
                '`make bench SECTIONS="turnover floor"` measures these sections again and keeps the others.'
            ),
            "",
            (
                "Figures of different sections, or of different days, were measured under different "
                "conditions: see the calibration of each. Variants that are compared were measured alternating. A "
                "ratio is the median of the ratios of the rounds, followed by the smallest and the largest."
            ),
            "",
        ]
        for name in order:
            if name in self.sections:
                lines += _lines(name, self.sections[name])
        return "\n".join(lines)


class Run:
    """One section's run: how much of it, what it says meanwhile, and the calibration."""

    def __init__(self, name: str, *, quick: bool) -> None:
        self.name = name
        self.quick = quick
        self._loops: list[float] = []

    def say(self, text: str) -> None:
        """Tell the terminal how far it is."""
        print(f"{datetime.now(UTC):%H:%M:%S} {self.name}: {text}", file=sys.stderr, flush=True)  # noqa: T201 - a command

    def calibrate(self) -> None:
        """Time the fixed loop; called before, between the rounds, and after."""
        self._loops.append(loop_seconds())

    def calibration(self, busy_before: float, busy_after: float) -> str:
        """Say what the loop took, and how busy the machine was by others."""
        first, *between, last = self._loops
        during = (
            f", between the rounds {min(between) * 1e3:.0f} to {max(between) * 1e3:.0f} ms" if between else ""
        )
        return (
            f"a loop of {_LOOP_TURNS:,} turns of plain Python took {first * 1e3:.0f} ms before{during}, "
            f"{last * 1e3:.0f} ms after. Other programs used {busy_before:.0f} % of the processors before, "
            f"{busy_after:.0f} % after"
        )


def loop_seconds() -> float:
    """How long a fixed loop of plain Python takes."""
    began = perf_counter()
    value = 0
    for turn in range(_LOOP_TURNS):
        value = (value * 31 + turn) & 0xFFFF
    return perf_counter() - began


def busy_percent() -> float:
    """How busy the processors are while this process does nothing."""
    return psutil.cpu_percent(_LOOK_SECONDS)


def machine() -> str:
    """What it is measured on."""
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    memory_gib = psutil.virtual_memory().total / 2**30
    return (
        f"{os.cpu_count()} cores, {memory_gib:.0f} GiB, {platform.system()} {platform.machine()}, Python "
        f"{platform.python_version()}, {packages}"
    )


def percentile(samples: Sequence[float], percent: int) -> float:
    """The p50, p95, p99, … of some samples (of one: itself)."""
    if len(samples) == 1:
        return samples[0]
    return statistics.quantiles(samples, n=100, method="inclusive")[percent - 1]


def milliseconds(seconds: float) -> str:
    """Three digits that mean something."""
    value = seconds * 1e3
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f}"


def ratio(over: Sequence[float], under: Sequence[float]) -> tuple[float, str]:
    """The median of the rounds' ratios, and the same with the smallest and the largest, for readers."""
    found = [one / other for one, other in zip(over, under, strict=True)]
    middle = statistics.median(found)
    return middle, f"{middle:.2f} ({min(found):.2f} to {max(found):.2f})"


def _lines(name: str, section: Section) -> list[str]:
    warning = " **A trial with tiny durations: the figures mean nothing.**" if section.quick else ""
    lines = [
        f"## {section.title}",
        "",
        f"`make bench SECTIONS={name}`, {section.measured_at:%Y-%m-%d %H:%M} UTC.{warning} {section.machine}.",
        "",
        f"Calibration: {section.calibration}.",
        "",
        *(f"- {sentence}" for sentence in section.findings.settings),
        "",
    ]
    for table in section.findings.tables:
        lines += [
            *([table.caption, ""] if table.caption else []),
            f"| {' | '.join(table.head)} |",
            f"|{'---|' * len(table.head)}",
            *(f"| {' | '.join(row)} |" for row in table.rows),
            "",
        ]
    return lines
