"""Keeping a claim for as long as its work takes.

A claim on a row lasts for ``claim_seconds``, so that a worker's death costs no more than that; a living one keeps it ahead,
however long the work takes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from freshdb_service.errors import BackendUnavailable

_log = logging.getLogger(__name__)


@asynccontextmanager
async def kept(
    what: str, extend: Callable[[], Awaitable[object]], *, claim_seconds: float, at_once: bool = False
) -> AsyncIterator[None]:
    """Extend a claim, again and again, while the block works.

    Args:
        what: is claimed, for messages.
        extend: for another ``claim_seconds``; false when the claim is lost.
        claim_seconds: how long it lasts.
        at_once: it is not known how much of it is left.
    """
    every_seconds = claim_seconds / 3
    keeper: asyncio.Task[None] | None = None

    def begin() -> None:
        nonlocal keeper
        keeper = asyncio.create_task(_keep(what, extend, every_seconds))

    # Most work is done before it would be time: a task for each would cost more than the timer.
    timer = asyncio.get_running_loop().call_later(0 if at_once else every_seconds, begin)
    try:
        yield
    finally:
        timer.cancel()
        if keeper is not None:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)


async def _keep(what: str, extend: Callable[[], Awaitable[object]], every_seconds: float) -> None:
    while True:
        try:
            if not await extend():
                return
        except BackendUnavailable as error:
            _log.warning("cannot keep the claim on %s: %s", what, error)
        await asyncio.sleep(every_seconds)
