"""The twin test runs with ``make twins`` only, until the reset engine is compared with it."""

from __future__ import annotations

from tests.shares import ALL

collect_ignore_glob = [] if ALL else ["test_*.py"]
