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
    keeper = asyncio.create_task(_keep(what, extend, claim_seconds / 3, at_once=at_once))
    try:
        yield
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)


async def _keep(
    what: str, extend: Callable[[], Awaitable[object]], every_seconds: float, *, at_once: bool
) -> None:
    if not at_once:
        await asyncio.sleep(every_seconds)
    while True:
        try:
            if not await extend():
                return
        except BackendUnavailable as error:
            _log.warning("cannot keep the claim on %s: %s", what, error)
        await asyncio.sleep(every_seconds)
