"""Routes for people who look: the whole at a glance, who waits, servers, and who they are themselves."""

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
    """Whom the token stands for, and what it may do."""
    scopes = [scope for scope in SCOPES if principal.has(scope)]
    return answer(CallerOut(principal=principal.name, scopes=scopes, open=not context.token_cache.closed))


@router.get("/overview", response_model=OverviewOut)
async def overview(context: InContext, principal: Reader) -> Response:
    """Is it healthy? If not: what is the matter, why, and what to do."""
    del principal
    seen = await context.overview.glance()
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
    principal: Reader,
    pool: Annotated[str | None, Query(pattern=UUID_PATTERN, description="of this pool alone")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """Who waits for a database, since when, and why; the first `limit` of them."""
    del principal
    pool_id = None if pool is None else UUID(pool)
    found = await context.overview.waiting(limit=limit, pool_id=pool_id)
    return answer(WaitersOut(items=[WaiterOut.of(one) for one in found]))


@router.get("/servers", response_model=ServersOut)
async def servers(context: InContext, principal: Reader) -> Response:
    """The managed servers: what they hold, how much of their disk that takes, and their connections at this moment."""
    del principal
    limits = context.overview.limits
    found = await context.overview.servers()
    return answer(ServersOut(items=[ServerOut.of(one, limits) for one in found]))
