"""Server-sent events: every transition, as it happens."""

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
    principal: Reader,
    kind: Annotated[
        str | None,
        Query(pattern=_KIND, description="`lease.revoked`; or `lease.*` for all that happened to leases"),
    ] = None,
    about: Annotated[
        str | None,
        Query(
            max_length=300,
            description="id of a lease, database or pool; or the name of a template, database, holder or principal",
        ),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[str | None, Query(alias="cursor", pattern=_ID)] = None,
) -> Response:
    """What happened, the newest first, as far as events are kept: the last ten thousand."""
    del principal

    def wanted(event: Event) -> bool:
        return _is(event.kind, kind) and (about is None or _mentions(event.data, about))

    found = await context.resources.events.newest(wanted, most=limit, before=after)
    following = found[-1].id if len(found) == limit else None
    return answer(EventsOut(items=[EventOut.of(one) for one in found], next=following))


def _is(kind: str, wanted: str | None) -> bool:
    return wanted is None or (kind.startswith(wanted[:-1]) if wanted.endswith("*") else kind == wanted)


def _mentions(said: object, name: str) -> bool:
    """Whether a value of an event is this name; of a template, its name without the fingerprint will do."""
    if isinstance(said, Mapping):
        return any(_mentions(one, name) for one in said.values())
    return isinstance(said, str) and name in {said, said.partition("@")[0]}


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
        # The answer has begun: all that can be said is that it ends here. The client goes on after the last event.
        yield f": {error.code}\n\n"
    finally:
        context.streams -= 1


@lru_cache(maxsize=_RECENT)
def _line(event: Event) -> str:
    """An event on the wire; put into words once for all who follow."""
    return f"id: {event.id}\nevent: {event.kind}\ndata: {json.dumps(event.data)}\n\n"
