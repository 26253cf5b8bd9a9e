"""The page adds up the runs."""

from __future__ import annotations

from pathlib import Path

from tests.soak.__main__ import add_run
from tests.soak.run import Report


def test_run_is_added_to_the_earlier_runs(tmp_path: Path) -> None:
    for seed, wrong in ((1, []), (2, ["a database was held twice"]), (3, [])):
        add_run(
            Report(
                seed=seed,
                seconds=600,
                wrong=wrong,
                counts={"acquire": 60_000},
                outcomes={},
                faults={"Redis emptied": 2},
                waits_seconds={"p50": 0.01, "p95": 0.1, "p99": 1.5},
                kill_cost_seconds=1.2,
                windows={"keys in Redis": (10, 11)},
            ),
            tmp_path,
        )
    text = (tmp_path / "soak.md").read_text()
    assert "**180,000 leases, 1 findings, 0 leftovers**" in text
    assert "the last finding: **60,000 leases**." in text
    assert "| 10 | 1 | all | 24 | 60,000 | 0 | 0 | 1.2 s | 10 ms · 100 ms · 1500 ms |" in text
    assert "| Redis emptied | 6 |" in text
    assert "| keys in Redis | +10% + 20 | 10 → 11 | 10 → 11 | 10 → 11 |" in text
