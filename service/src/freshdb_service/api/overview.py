"""Routes of the overview, the queue, the servers and the caller's own token."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from fastapi.responses import Response

from freshdb_service import __version__
from freshdb_service.api.context import Caller, InContext, Reader, answer
from freshdb_service.api.pagination import UUID_PATTERN
from freshdb_service.api.schemas_status import (
    CallerOut,
    FindingOut,
    OverviewOut,
    ServerOut,
    ServersOut,
    WaiterOut,
    WaitersOut,
)
from freshdb_service.config import SCOPES
from freshdb_service.status.diagnosis import status_of

router = APIRouter(tags=["overview"])


@router.get("/whoami", response_model=CallerOut)
async def whoami(context: InContext, principal: Caller) -> Response:
    """Principal and scopes of the caller's token."""
    scopes = [scope for scope in SCOPES if principal.has(scope)]
    return answer(CallerOut(principal=principal.name, scopes=scopes, open=not context.token_cache.closed))


@router.get("/overview", response_model=OverviewOut)
async def overview(context: InContext, _principal: Reader) -> Response:
    """Health and counts of the whole installation. Each finding has its reason and remedy."""
    seen = await context.overview.snapshot()
    return answer(
        OverviewOut(
            status=status_of(seen.findings),
            at=seen.counts.at,
            version=__version__,
            findings=[FindingOut.of(one) for one in seen.findings],
            databases={state.value: number for state, number in seen.databases.items()},
            leases={state.value: number for state, number in seen.counts.leases.items()},
            templates={state.value: number for state, number in seen.counts.templates.items()},
            pools=seen.pools,
            servers=seen.servers,
            waiting=seen.waiting,
            longest_wait_seconds=seen.longest_wait_seconds,
        )
    )


@router.get("/waiters", response_model=WaitersOut)
async def waiters(
    context: InContext,
    _principal: Reader,
    pool: Annotated[str | None, Query(pattern=UUID_PATTERN, description="id of one pool")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """Queues: callers that wait for a database, with the time and reason of their wait. The first `limit` are listed."""
    pool_id = None if pool is None else UUID(pool)
    found = await context.overview.waiting(limit=limit, pool_id=pool_id)
    return answer(WaitersOut(items=[WaiterOut.of(one) for one in found]))


@router.get("/servers", response_model=ServersOut)
async def servers(context: InContext, _principal: Reader) -> Response:
    """Managed servers, with their databases, disk space and current connections."""
    limits = context.overview.limits
    found = await context.overview.servers()
    return answer(ServersOut(items=[ServerOut.of(one, limits) for one in found]))
