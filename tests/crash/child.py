"""The process that is killed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from multiprocessing.connection import Connection

from freshdb_service.lifecycle import Isolation
from tests.crash.steps import Steps
from tests.crash.stories import STORIES, Here, Told
from tests.integration.installations import Site, replica


@dataclass(frozen=True, slots=True)
class Task:
    """A story to run, and the step ``last`` at which the process is killed instead of taking it.

    The steps of the replica's start count only if the story says so (``from_the_start``).
    """

    site: Site
    story: str
    isolation: Isolation
    last: int | None


def perform(task: Task, answer: Connection) -> None:
    """Run the task. Send ``Told`` whenever it changes, and at the end the number of steps."""
    steps = Steps()
    steps.watch()
    asyncio.run(_perform(task, answer, steps))
    answer.send(steps.taken)


async def _perform(task: Task, answer: Connection, steps: Steps) -> None:
    story = STORIES[task.story]
    if story.from_the_start:
        steps.count(task.last)
    async with replica(task.site) as bench:
        here = Here(bench, Told(task.isolation), task.site.dsns[0], task.site.control, answer.send)
        await story.prepare(here)
        answer.send(here.told)
        steps.count(task.last)
        await story.act(here)
        steps.stop()
        answer.send(here.told)
