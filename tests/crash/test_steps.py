"""A replica that is killed at any step loses no lease, blocks no database and leaves nothing behind.

A run tries one step of each story, with one isolation (``tests.shares``). ``make crash`` tries every step with both.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from freshdb_service.lifecycle import Isolation
from tests.crash.stories import STORIES
from tests.crash.world import live_through
from tests.servers import PostgresServer
from tests.shares import ALL, share

COUNTED = os.environ.get("FRESHDB_CRASH_COUNTED")
"""The file to which the number of tried steps is written."""
EARLY = 14


@pytest.mark.timeout(3600 if ALL else 300)
@pytest.mark.parametrize(
    ("story", "isolation"),
    [
        pytest.param(name, isolation, id=f"{name}-{isolation}")
        for name, story in STORIES.items()
        for isolation in story.isolations
    ],
)
async def test_whatever_step_a_replica_dies_at_everything_finds_its_way_back(
    postgres_18: PostgresServer, redis_url: str, story: str, isolation: Isolation
) -> None:
    for last in await _chosen(postgres_18, redis_url, story, isolation):
        try:
            await live_through(postgres_18, redis_url, story, isolation, last=last)
        except BaseException as error:
            error.add_note(f"{story}, isolation {isolation}: gone at step {last}")
            raise


async def _chosen(postgres_18: PostgresServer, redis_url: str, story: str, isolation: Isolation) -> list[int]:
    """Return all steps, or one of the first."""
    if not ALL:
        return share(range(1, EARLY + 1), EARLY, name=lambda step: f"{story} {isolation} {step}")
    steps = await live_through(postgres_18, redis_url, story, isolation, last=None)
    assert steps
    _count(story, isolation, steps)
    return list(range(1, steps + 1))


def _count(story: str, isolation: Isolation, steps: int) -> None:
    if COUNTED is not None:
        with Path(COUNTED).open("a") as out:
            out.write(f"| {story} | {isolation} | {steps} |\n")
