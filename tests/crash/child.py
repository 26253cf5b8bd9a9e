"""The process that is killed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from multiprocessing.connection import Connection

from freshdb_service.lifecycle import Isolation
from tests.crash.scenarios import SCENARIOS, ClientState, Context
from tests.crash.steps import Steps
from tests.integration.installations import Installation, replica


@dataclass(frozen=True, slots=True)
class Task:
    """A scenario to run, and the step ``kill_at`` at which the process is killed instead of taking it.

    The steps of the replica's start count only if the scenario says so (``count_start``).
    """

    installation: Installation
    scenario: str
    isolation: Isolation
    kill_at: int | None


def perform(task: Task, results: Connection) -> None:
    """Run the task. Send ``ClientState`` whenever it changes, and at the end the number of steps."""
    steps = Steps()
    steps.watch()
    asyncio.run(_perform(task, results, steps))
    results.send(steps.taken)


async def _perform(task: Task, results: Connection, steps: Steps) -> None:
    scenario = SCENARIOS[task.scenario]
    if scenario.count_start:
        steps.count(task.kill_at)
    async with replica(task.installation) as bench:
        context = Context(
            bench,
            ClientState(task.isolation),
            task.installation.dsns[0],
            task.installation.control,
            results.send,
        )
        await scenario.prepare(context)
        results.send(context.client_state)
        steps.count(task.kill_at)
        await scenario.act(context)
        steps.stop()
        results.send(context.client_state)
