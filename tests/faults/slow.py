"""Which of these tests run by default: those that take longest wait for ``make faults``, and for CI, which runs all."""

from __future__ import annotations

import os
from typing import Final

import pytest

from tests.servers import ALL_MAJORS_REQUIRED

_ALL: Final = ALL_MAJORS_REQUIRED or os.environ.get("FRESHDB_FAULTS") == "all"

slow: Final = pytest.mark.skipif(not _ALL, reason="takes long: `make faults` and CI run it")
