"""Routes of pools."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from fastapi.responses import Response

from freshdb_service.api.context import Admin, InContext, Reader, answer
from freshdb_service.api.pagination import UUID_PATTERN
from freshdb_service.api.problems import parse_id, refusals
from freshdb_service.api.schemas import PoolOut, PoolsOut, ResizeIn
from freshdb_service.api.schemas_status import HistoryOut
from freshdb_service.errors import PoolNotFound
from freshdb_service.observability.logs import add_to_log_context

router = APIRouter(prefix="/pools", tags=["pools"])


@router.get("", response_model=PoolsOut)
async def listing(
    context: InContext,
    _principal: Reader,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[str | None, Query(alias="cursor", pattern=UUID_PATTERN)] = None,
) -> Response:
    """Pools, with their sizes, databases and queues."""
    position = UUID(after) if after is not None else None
    found = await context.pools.listing(limit=limit, after=position)
    following = str(found[-1].pool.id) if len(found) == limit else None
    return answer(PoolsOut(items=[PoolOut.of(one) for one in found], next=following))


@router.get("/{pool_id}", response_model=PoolOut, responses=refusals(404))
async def show(pool_id: str, context: InContext, _principal: Reader) -> Response:
    """One pool, with its sizes, databases and queue."""
    return answer(PoolOut.of(await context.pools.show(_pool_id(pool_id))))


@router.get("/{pool_id}/history", response_model=HistoryOut, responses=refusals(404))
async def history(
    pool_id: str,
    context: InContext,
    _principal: Reader,
    seconds: Annotated[
        int, Query(ge=60, le=86_400, description="length of the history; one day is stored")
    ] = 3600,
) -> Response:
    """History of a pool: databases by state, callers in the queue, and percentiles of the times of grants and resets.

    There is one point per minute (per five minutes, of a day) with data. The last point is still growing. Numbers are some
    seconds old.
    """
    identifier = _pool_id(pool_id)
    await context.pools.show(identifier)
    step_seconds, points = await context.resources.history.points(identifier, seconds=seconds)
    return answer(HistoryOut.of(seconds, step_seconds, points))


@router.patch("/{pool_id}", response_model=PoolOut, responses=refusals(404))
async def resize(pool_id: str, body: ResizeIn, context: InContext, principal: Admin) -> Response:
    """Change a pool's sizes. Omitted ones keep their values."""
    sizes = body.model_dump(exclude_none=True)
    return answer(PoolOut.of(await context.pools.resize(_pool_id(pool_id), sizes, by=principal.actor)))


def _pool_id(text: str) -> UUID:
    identifier = parse_id(text, "pool", "`id` of a pool (GET /v1/pools)", PoolNotFound)
    add_to_log_context(pool=str(identifier))
    return identifier
