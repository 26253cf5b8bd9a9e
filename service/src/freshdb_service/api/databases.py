"""Routes of databases and of their resets."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from fastapi.responses import Response

from freshdb_service.api.context import InContext, Reader, answer
from freshdb_service.api.fields import NO_NULL
from freshdb_service.api.leases import lease_out
from freshdb_service.api.pagination import CURSOR, UUID_PATTERN, cursor, position
from freshdb_service.api.problems import parse_id, refusals, storable
from freshdb_service.api.schemas_status import DatabaseLifeOut, DatabaseOut, DatabasesOut, ResetOut, ResetsOut
from freshdb_service.errors import DatabaseNotFound
from freshdb_service.leasing.acquire import Granted
from freshdb_service.lifecycle import DatabaseState
from freshdb_service.store.dashboard_queries import DatabaseFilter
from freshdb_service.store.history import ResetFilter

router = APIRouter(tags=["databases"])
Id = Annotated[str | None, Query(pattern=UUID_PATTERN)]


@router.get("/databases", response_model=DatabasesOut)
async def listing(
    context: InContext,
    _principal: Reader,
    pool: Id = None,
    state: DatabaseState | None = None,
    server: Annotated[str | None, Query(max_length=300, json_schema_extra=NO_NULL)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[str | None, Query(alias="cursor", pattern=UUID_PATTERN)] = None,
) -> Response:
    """Databases in the order of their ids."""
    wanted = DatabaseFilter(pool_id=_uuid(pool), state=state, server=storable("server", server))
    found = await context.overview.databases(wanted, limit=limit, after=_uuid(after))
    following = str(found[-1].id) if len(found) == limit else None
    return answer(DatabasesOut(items=[DatabaseOut.of(one) for one in found], next=following))


@router.get("/databases/{database_id}", response_model=DatabaseLifeOut, responses=refusals(404))
async def show(database_id: str, context: InContext, _principal: Reader) -> Response:
    """One database, with its leases and resets."""
    identifier = parse_id(database_id, "database", "`database_id` of a lease", DatabaseNotFound)
    life = await context.overview.history(identifier)
    leases = [lease_out(context, Granted(one, None), None) for one in life.leases]
    return answer(DatabaseLifeOut.lived(life.database, leases, [ResetOut.of(one) for one in life.resets]))


@router.get("/resets", response_model=ResetsOut)
async def resets(
    context: InContext,
    _principal: Reader,
    database: Id = None,
    lease: Id = None,
    pool: Id = None,
    left_behind: Annotated[  # noqa: FBT002 - a query parameter
        bool, Query(description="only resets of databases with leftovers of their holder")
    ] = False,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[str | None, Query(alias="cursor", pattern=CURSOR)] = None,
) -> Response:
    """Resets, newest first: the path and its reason, the duration, and the leftovers of the holder."""
    wanted = ResetFilter(_uuid(database), _uuid(lease), _uuid(pool), left_behind)
    found = await context.resources.history.resets(wanted, limit=limit, before=position(after))
    last = found[-1] if len(found) == limit else None
    page = ResetsOut(
        items=[ResetOut.of(one) for one in found], next=cursor(last.at, last.id) if last else None
    )
    return answer(page)


def _uuid(text: str | None) -> UUID | None:
    return None if text is None else UUID(text)
