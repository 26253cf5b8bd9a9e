"""The time limit of all waits in tests. It is generous: it ends a test that hangs and decides nothing else."""

from __future__ import annotations

import os
from typing import Final

TIMEOUT_FACTOR: Final = float(os.environ.get("FRESHDB_TEST_TIMEOUT_FACTOR", "1"))
"""``FRESHDB_TEST_TIMEOUT_FACTOR=3`` triples the limit, for a machine that is busier still."""
LIMIT_SECONDS: Final = 120.0 * TIMEOUT_FACTOR
