"""A replica that is killed at any step loses no lease, blocks no database and leaves nothing behind.

A run tries one step of each scenario, with one isolation (``tests.shares``). ``make crash`` tries every step with both.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from freshdb_service.lifecycle import Isolation
from tests.crash.checks import kill_and_check
from tests.crash.scenarios import SCENARIOS
from tests.servers import PostgresServer
from tests.shares import ALL, share

COUNTED = os.environ.get("FRESHDB_CRASH_COUNTED")
"""The file to which the number of tried steps is written."""
EARLY = 14


@pytest.mark.timeout(3600 if ALL else 300)
@pytest.mark.parametrize(
    ("scenario", "isolation"),
    [
        pytest.param(name, isolation, id=f"{name}-{isolation}")
        for name, scenario in SCENARIOS.items()
        for isolation in scenario.isolations
    ],
)
async def test_replica_killed_at_a_step_loses_no_lease_and_leaves_nothing(
    postgres_18: PostgresServer, redis_url: str, scenario: str, isolation: Isolation
) -> None:
    for kill_at in await _steps_to_try(postgres_18, redis_url, scenario, isolation):
        try:
            await kill_and_check(postgres_18, redis_url, scenario, isolation, kill_at=kill_at)
        except BaseException as error:
            error.add_note(f"{scenario}, isolation {isolation}: killed at step {kill_at}")
            raise


async def _steps_to_try(
    postgres_18: PostgresServer, redis_url: str, scenario: str, isolation: Isolation
) -> list[int]:
    """Return all steps, or one of the first."""
    if not ALL:
        return share(range(1, EARLY + 1), EARLY, name=lambda step: f"{scenario} {isolation} {step}")
    steps = await kill_and_check(postgres_18, redis_url, scenario, isolation, kill_at=None)
    assert steps
    _count(scenario, isolation, steps)
    return list(range(1, steps + 1))


def _count(scenario: str, isolation: Isolation, steps: int) -> None:
    if COUNTED is not None:
        with Path(COUNTED).open("a") as out:
            out.write(f"| {scenario} | {isolation} | {steps} |\n")
