"""Mark of the slowest tests, which only ``make faults`` runs. All others run by default, also in CI."""

from __future__ import annotations

from typing import Final

import pytest

from tests.shares import ALL

slow: Final = pytest.mark.skipif(not ALL, reason="takes long: `make faults` runs it")
