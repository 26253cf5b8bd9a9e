"""Server-sent events: every transition, as it happens."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query
from fastapi.responses import StreamingResponse

from freshdb_service.api.context import Context, InContext, Reader

router = APIRouter(tags=["events"])
_POSITION = r"^(\$|\d{1,20}(-\d{1,20})?)$"


@router.get("/events", response_class=StreamingResponse)
async def events(
    context: InContext,
    principal: Reader,
    since: Annotated[
        str | None, Query(pattern=_POSITION, description="an event's id; `0` for all that are kept")
    ] = None,
    follow: Annotated[bool, Query(description="go on with what is to come")] = True,  # noqa: FBT002 - a query parameter
    last_event_id: Annotated[str | None, Header(pattern=_POSITION)] = None,
) -> StreamingResponse:
    """What happened and happens, as server-sent events. A client that reconnects goes on where it was."""
    del principal
    start = last_event_id or since or ("$" if follow else "0")
    return StreamingResponse(
        _stream(context, start, follow=follow),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store"},
    )


async def _stream(context: Context, since: str, *, follow: bool) -> AsyncIterator[str]:
    if not follow:
        for past in await context.at.events.read(since, most=10_000):
            yield _line(past.id, past.kind, past.data)
        return
    yield ": following\n\n"
    async for event in context.at.events.follow(since, stop=context.at.stopping):
        yield ": still here\n\n" if event is None else _line(event.id, event.kind, event.data)


def _line(identifier: str, kind: str, data: object) -> str:
    return f"id: {identifier}\nevent: {kind}\ndata: {json.dumps(data)}\n\n"
