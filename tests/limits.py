"""The time limit of all waits in tests. It is generous: it ends a test that hangs and decides nothing else."""

from __future__ import annotations

import os
from typing import Final

PATIENCE: Final = float(os.environ.get("FRESHDB_TEST_PATIENCE", "1"))
"""``FRESHDB_TEST_PATIENCE=3`` triples the limit, for a machine that is busier still."""
LIMIT_SECONDS: Final = 120.0 * PATIENCE
