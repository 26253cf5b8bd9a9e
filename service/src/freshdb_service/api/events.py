"""Server-sent events: every transition, as it happens."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from functools import lru_cache
from typing import Annotated

from fastapi import APIRouter, Header, Query
from fastapi.responses import StreamingResponse

from freshdb_service.api.context import Context, InContext, Reader
from freshdb_service.api.problems import refusals
from freshdb_service.errors import BackendUnavailable, QuotaExceeded
from freshdb_service.redis.events import Event

router = APIRouter(tags=["events"])
_EVENT = {
    "type": "object",
    "required": ["id", "event", "data"],
    "properties": {
        "id": {"type": "string"},
        "event": {"type": "string", "examples": ["lease.acquired", "database.ready"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
}
_POSITION = r"^(\$|[0-9]{1,19}(-[0-9]{1,19})?)$"
_RECENT = 2_000


@router.get(
    "/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {"itemSchema": _EVENT}}}, **refusals(429)},
)
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
    most = context.settings.max_event_streams
    if context.streams >= most:
        message = f"{most} streams of events are open, as many as may be (max_event_streams); close some"
        raise QuotaExceeded(message, retry_after_seconds=1.0)
    # What can be refused is refused before the answer begins.
    start = await context.at.events.position(last_event_id or since or ("$" if follow else "0"))
    past = await context.at.events.read(start)
    return StreamingResponse(
        _stream(context, start, past, follow=follow),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store"},
    )


async def _stream(context: Context, start: str, past: Sequence[Event], *, follow: bool) -> AsyncIterator[str]:
    context.streams += 1
    try:
        if follow:
            yield ": following\n\n"
            async for batch in context.at.events.follow(start, stop=context.at.stopping):
                yield "".join(map(_line, batch)) or ": still here\n\n"
            return
        while past:
            yield "".join(map(_line, past))
            past = await context.at.events.read(past[-1].id)
    except BackendUnavailable as error:
        # The answer has begun: all that can be said is that it ends here. The client goes on after the last event.
        yield f": {error.code}\n\n"
    finally:
        context.streams -= 1


@lru_cache(maxsize=_RECENT)
def _line(event: Event) -> str:
    """An event on the wire; put into words once for all who follow."""
    return f"id: {event.id}\nevent: {event.kind}\ndata: {json.dumps(event.data)}\n\n"
