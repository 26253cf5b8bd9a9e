"""Routes of pools."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from fastapi.responses import Response

from freshdb_service.api.context import Admin, InContext, Reader, answer
from freshdb_service.api.pagination import UUID_PATTERN
from freshdb_service.api.problems import refusals
from freshdb_service.api.schemas import PoolOut, PoolsOut, ResizeIn
from freshdb_service.api.schemas_status import HistoryOut
from freshdb_service.errors import PoolNotFound
from freshdb_service.observability.logs import note

router = APIRouter(prefix="/pools", tags=["pools"])


@router.get("", response_model=PoolsOut)
async def listing(
    context: InContext,
    principal: Reader,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[str | None, Query(alias="cursor", pattern=UUID_PATTERN)] = None,
) -> Response:
    """Pools and their health."""
    del principal
    position = UUID(after) if after is not None else None
    found = await context.pools.listing(limit=limit, after=position)
    following = str(found[-1].pool.id) if len(found) == limit else None
    return answer(PoolsOut(items=[PoolOut.of(one) for one in found], next=following))


@router.get("/{pool_id}", response_model=PoolOut, responses=refusals(404))
async def show(pool_id: str, context: InContext, principal: Reader) -> Response:
    """One pool and its health."""
    del principal
    return answer(PoolOut.of(await context.pools.show(_pool_id(pool_id))))


@router.get("/{pool_id}/history", response_model=HistoryOut, responses=refusals(404))
async def history(
    pool_id: str,
    context: InContext,
    principal: Reader,
    seconds: Annotated[
        int, Query(ge=60, le=86_400, description="how far back; a day at most is kept")
    ] = 3600,
) -> Response:
    """What a pool was like: databases by state, who waited, and how long grants and resets took, by percentile.

    A point for every minute (every five, of a day) in which anything is known; the last one goes on. Numbers come some
    seconds behind what happens.
    """
    del principal
    identifier = _pool_id(pool_id)
    await context.pools.show(identifier)
    step_seconds, points = await context.resources.history.points(identifier, seconds=seconds)
    return answer(HistoryOut.of(seconds, step_seconds, points))


@router.patch("/{pool_id}", response_model=PoolOut, responses=refusals(404))
async def resize(pool_id: str, body: ResizeIn, context: InContext, principal: Admin) -> Response:
    """Change a pool's sizes; what is left out stays."""
    sizes = body.model_dump(exclude_none=True)
    return answer(PoolOut.of(await context.pools.resize(_pool_id(pool_id), sizes, by=principal.actor)))


def _pool_id(text: str) -> UUID:
    try:
        identifier = UUID(text)
    except ValueError:
        message = f"{text[:60]!r} is no pool id: that is the UUID in `id` of a pool"
        raise PoolNotFound(message) from None
    note(pool=str(identifier))
    return identifier
