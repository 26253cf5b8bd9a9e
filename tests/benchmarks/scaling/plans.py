"""The fleets that ``docs/scaling.md`` shows, and changes that help the largest one."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from tests.benchmarks.scaling.fleet import Plan

LARGEST: Final = Plan(servers=100, databases=100_000, holders=5_000, control_cores=16)
PLANS: Final = (
    Plan(servers=4, databases=100, holders=16, control_cores=4),
    Plan(servers=10, databases=1_000, holders=100, control_cores=4),
    Plan(servers=30, databases=10_000, holders=1_000, control_cores=8),
    LARGEST,
)
INTERVAL_FACTOR: Final = 5.0
REMEDIES: Final = {
    "nothing": LARGEST,
    "20 replicas more": replace(LARGEST, more_replicas=20),
    "twice the cores for the control plane": replace(LARGEST, control_cores=32),
    f"loops with intervals {INTERVAL_FACTOR:g} times longer": replace(
        LARGEST, interval_factor=INTERVAL_FACTOR
    ),
    "a Redis on a core twice as fast": replace(LARGEST, redis_speed=2.0),
    "two installations": replace(LARGEST, control_cores=8, installations=2),
    "five installations": replace(LARGEST, control_cores=4, installations=5),
}
"""Changes by name. The control plane's cores are those of one installation."""
