"""Server-sent events about every change of a state."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import lru_cache
from typing import Annotated

from fastapi import APIRouter, Header, Query
from fastapi.responses import Response, StreamingResponse

from freshdb_service.api.context import Context, InContext, Reader, answer
from freshdb_service.api.problems import refusals
from freshdb_service.api.schemas_status import EventOut, EventsOut
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
_ID = r"^[0-9]{1,19}-[0-9]{1,19}$"
_KIND = r"^[a-z]{1,20}\.(\*|[a-z_]{1,40})$"
_RECENT = 2_000


@router.get(
    "/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {"itemSchema": _EVENT}}}, **refusals(429)},
)
async def events(
    context: InContext,
    _principal: Reader,
    since: Annotated[
        str | None, Query(pattern=_POSITION, description="id of an event; `0` for all stored events")
    ] = None,
    follow: Annotated[bool, Query(description="keep the stream open for new events")] = True,  # noqa: FBT002 - a query parameter
    last_event_id: Annotated[str | None, Header(pattern=_POSITION)] = None,
) -> StreamingResponse:
    """Stream events as server-sent events. A client that reconnects continues after its `Last-Event-ID`."""
    most = context.settings.max_event_streams
    if context.streams >= most:
        message = f"{most} event streams are open (max_event_streams={most}); close some, or retry later"
        raise QuotaExceeded(message, retry_after_seconds=1.0)
    # Errors must be raised before the response starts.
    start = await context.resources.events.position(last_event_id or since or ("$" if follow else "0"))
    past = await context.resources.events.read(start)
    return StreamingResponse(
        _stream(context, start, past, follow=follow),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store"},
    )


@router.get("/events/recent", response_model=EventsOut)
async def recent(
    context: InContext,
    _principal: Reader,
    kind: Annotated[
        str | None,
        Query(pattern=_KIND, description="kind of event, for example `lease.revoked` or `lease.*`"),
    ] = None,
    about: Annotated[
        str | None,
        Query(
            max_length=300,
            description="id of a lease, database or pool, or name of a template, database, holder or principal",
        ),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[str | None, Query(alias="cursor", pattern=_ID)] = None,
) -> Response:
    """Stored events, newest first. The last ten thousand events are stored."""

    def wanted(event: Event) -> bool:
        return _is(event.kind, kind) and (about is None or _mentions(event.data, about))

    found = await context.resources.events.newest(wanted, most=limit, before=after)
    following = found[-1].id if len(found) == limit else None
    return answer(EventsOut(items=[EventOut.of(one) for one in found], next=following))


def _is(kind: str, wanted: str | None) -> bool:
    return wanted is None or (kind.startswith(wanted[:-1]) if wanted.endswith("*") else kind == wanted)


def _mentions(value: object, name: str) -> bool:
    """True if the event has this value. A template matches with or without its fingerprint."""
    if isinstance(value, Mapping):
        return any(_mentions(one, name) for one in value.values())
    return isinstance(value, str) and name in {value, value.partition("@")[0]}


async def _stream(context: Context, start: str, past: Sequence[Event], *, follow: bool) -> AsyncIterator[str]:
    context.streams += 1
    try:
        if follow:
            yield ": following\n\n"
            async for batch in context.resources.events.follow(start, stop=context.resources.stopping):
                yield "".join(map(_line, batch)) or ": still here\n\n"
            return
        while past:
            yield "".join(map(_line, past))
            past = await context.resources.events.read(past[-1].id)
    except BackendUnavailable as error:
        # The response has started, so a comment is all that can be sent. The client continues after the last event.
        yield f": {error.code}\n\n"
    finally:
        context.streams -= 1


@lru_cache(maxsize=_RECENT)
def _line(event: Event) -> str:
    """Serialize an event once for all streams."""
    return f"id: {event.id}\nevent: {event.kind}\ndata: {json.dumps(event.data)}\n\n"
