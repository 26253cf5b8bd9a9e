"""Findings of a section, stored in ``docs/benchmarks.json`` and written as ``docs/benchmarks.md``.

One section can be measured again without losing the others. Each stores its date, the machine and the versions. It also
stores the time of a fixed loop of plain Python before, between and after its rounds. If that time varies, the machine was
busy or slowed down, and only figures of the same round can be compared.
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
_SAMPLE_SECONDS = 1.0
_PACKAGES = ("fastapi", "uvicorn", "sqlalchemy", "asyncpg", "redis", "httpx", "pytest")


class Table(BaseModel):
    """One table: its caption, its head, its rows."""

    caption: str
    head: list[str]
    rows: list[list[str]]


class Findings(BaseModel):
    """Findings of one section.

    Attributes:
        settings: the conditions of the measurement, one or two sentences each.
        tables: tables for readers.
        figures: the same results for programs, as numbers by name.
    """

    settings: list[str]
    tables: list[Table]
    figures: dict[str, float] = {}


class Section(BaseModel):
    """The findings, and the data that is needed to judge them. ``command`` measures the section again."""

    title: str
    command: str = ""
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
        """Read the report of earlier runs, or return an empty one if there is none."""
        return cls.model_validate_json(path.read_text()) if path.exists() else cls()

    def markdown(self, order: Sequence[str]) -> str:
        """Return the page for readers, with the sections in this order."""
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
    """One run of a section: its length, its progress messages, and its calibration."""

    def __init__(self, name: str, *, quick: bool) -> None:
        self.name = name
        self.quick = quick
        self._loops: list[float] = []

    def log_progress(self, text: str) -> None:
        """Print the progress to the terminal."""
        print(f"{datetime.now(UTC):%H:%M:%S} {self.name}: {text}", file=sys.stderr, flush=True)  # noqa: T201 - a command

    def calibrate(self) -> None:
        """Time the fixed loop. This is called before the rounds, between them, and after them."""
        self._loops.append(loop_seconds())

    def calibration(self, busy_before: float, busy_after: float) -> str:
        """Describe the loop's times, and the use of the machine by other programs."""
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
    """Return the time of a fixed loop of plain Python."""
    began = perf_counter()
    value = 0
    for turn in range(_LOOP_TURNS):
        value = (value * 31 + turn) & 0xFFFF
    return perf_counter() - began


def busy_percent() -> float:
    """Return the use of the processors while this process is idle."""
    return psutil.cpu_percent(_SAMPLE_SECONDS)


def machine() -> str:
    """Describe the machine and the versions."""
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    memory_gib = psutil.virtual_memory().total / 2**30
    return (
        f"{os.cpu_count()} cores, {memory_gib:.0f} GiB, {platform.system()} {platform.machine()}, Python "
        f"{platform.python_version()}, {packages}"
    )


def percentile(samples: Sequence[float], percent: int) -> float:
    """Return a percentile of some samples. A single sample is its own percentile."""
    if len(samples) == 1:
        return samples[0]
    return statistics.quantiles(samples, n=100, method="inclusive")[percent - 1]


def milliseconds(seconds: float) -> str:
    """Format with three significant digits."""
    value = seconds * 1e3
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f}"


def ratio(over: Sequence[float], under: Sequence[float]) -> tuple[float, str]:
    """Return the median of the rounds' ratios, and a text with the smallest and the largest as well."""
    found = [one / other for one, other in zip(over, under, strict=True)]
    middle = statistics.median(found)
    return middle, f"{middle:.2f} ({min(found):.2f} to {max(found):.2f})"


def _lines(name: str, section: Section) -> list[str]:
    warning = " **A trial with tiny durations: the figures mean nothing.**" if section.quick else ""
    command = section.command or f"make bench SECTIONS={name}"
    lines = [
        f"## {section.title}",
        "",
        f"`{command}`, {section.measured_at:%Y-%m-%d %H:%M} UTC.{warning} {section.machine}.",
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
