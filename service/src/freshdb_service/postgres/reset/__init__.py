"""Reset a used database: clean it in place (``CleaningEngine``), or rebuild it (``RebuildEngine``)."""

from freshdb_service.postgres.reset.cleaning_engine import CleaningEngine
from freshdb_service.postgres.reset.engine import (
    CopySource,
    Fenced,
    RebuildEngine,
    ResetEngine,
    ResetOutcome,
    UsedDatabase,
)

__all__ = [
    "CleaningEngine",
    "CopySource",
    "Fenced",
    "RebuildEngine",
    "ResetEngine",
    "ResetOutcome",
    "UsedDatabase",
]
