"""Which of these tests run by default, in CI, too: those that take longest wait for ``make faults``."""

from __future__ import annotations

import os
from typing import Final

import pytest

_ALL: Final = os.environ.get("FRESHDB_FAULTS") == "all"

slow: Final = pytest.mark.skipif(not _ALL, reason="takes long: `make faults` runs it")
