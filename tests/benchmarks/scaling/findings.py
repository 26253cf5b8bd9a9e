"""Findings, stored in ``docs/scaling.json``. Each part can be measured again without losing the others."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel

from tests.benchmarks.results import Run, busy_percent, machine
from tests.benchmarks.running import ROOT
from tests.benchmarks.scaling.fleet import Forecast, Validation
from tests.benchmarks.scaling.growth import Cost
from tests.benchmarks.scaling.measured import Measured

DOCS = ROOT / "docs"
T = TypeVar("T")


class Part(BaseModel, Generic[T]):
    """One part, and the data that is needed to judge it."""

    at: datetime
    machine: str
    calibration: str
    found: T

    @classmethod
    def of(cls, run: Run, busy_before: float, found: T) -> Part[T]:
        """Create a part from findings of this moment."""
        run.calibrate()
        return cls(
            at=datetime.now(UTC),
            machine=machine(),
            calibration=run.calibration(busy_before, busy_percent()),
            found=found,
        )


class Simulated(BaseModel):
    """Results of the simulation."""

    validations: list[Validation]
    forecasts: list[Forecast]
    remedies: dict[str, Forecast]
    """Forecasts of the largest fleet, by the change."""


class Findings(BaseModel):
    """All three parts."""

    measured: Part[Measured] | None = None
    growth: Part[list[Cost]] | None = None
    simulated: Simulated | None = None

    @classmethod
    def read(cls, directory: Path) -> Findings:
        """Read the findings of earlier runs, or return empty ones if there are none."""
        path = directory / "scaling.json"
        return cls.model_validate_json(path.read_text()) if path.exists() else cls()
