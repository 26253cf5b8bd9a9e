"""Renewal of a claim during the work that it is for.

A claim on a row lasts ``claim_seconds``, so the death of a worker delays its work by no more than that. A live worker renews
its claims, however long the work takes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from freshdb_service.errors import BackendUnavailable

_log = logging.getLogger(__name__)


@asynccontextmanager
async def renewed(
    what: str, extend: Callable[[], Awaitable[object]], *, claim_seconds: float, at_once: bool = False
) -> AsyncIterator[None]:
    """Renew a claim during the block.

    Args:
        what: name of the claimed object, for messages.
        extend: extends the claim by ``claim_seconds`` from now; returns false when the claim is lost.
        claim_seconds: length of the claim.
        at_once: renew first when the block begins, because the time that is left is not known.
    """
    interval_seconds = claim_seconds / 3
    renewal: asyncio.Task[None] | None = None

    def begin() -> None:
        nonlocal renewal
        renewal = asyncio.create_task(_renew(what, extend, interval_seconds))

    # Most work ends before the first renewal is due: a timer costs less than a task.
    timer = asyncio.get_running_loop().call_later(0 if at_once else interval_seconds, begin)
    try:
        yield
    finally:
        timer.cancel()
        if renewal is not None:
            renewal.cancel()
            await asyncio.gather(renewal, return_exceptions=True)


async def _renew(what: str, extend: Callable[[], Awaitable[object]], interval_seconds: float) -> None:
    while True:
        try:
            if not await extend():
                return
        except BackendUnavailable as error:
            _log.warning("cannot renew the claim on %s: %s", what, error)
        await asyncio.sleep(interval_seconds)
