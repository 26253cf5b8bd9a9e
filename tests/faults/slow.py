"""Which of these tests run by default, in CI, too: those that take longest wait for ``make faults``."""

from __future__ import annotations

from typing import Final

import pytest

from tests.shares import ALL

slow: Final = pytest.mark.skipif(not ALL, reason="takes long: `make faults` runs it")
