"""The tests of the twin test's own parts, its actions and probes, run with ``make twins`` only."""

from __future__ import annotations

from tests.shares import ALL

collect_ignore_glob = [] if ALL else ["test_compare.py", "test_holder_actions.py"]
