"""The route of the audit log."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from fastapi.responses import Response

from freshdb_service.api.context import Admin, InContext, answer
from freshdb_service.api.pagination import CURSOR, UUID_PATTERN, cursor, position
from freshdb_service.api.problems import invalid, storable
from freshdb_service.api.schemas_auth import RecordOut, RecordsOut
from freshdb_service.store.audit_log import AuditFilter

router = APIRouter(prefix="/audit", tags=["audit"])

_INSTANT = (
    r"^(19|2[0-9])[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]{1,6})?)?"
    r"(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"
)
"""An RFC 3339 instant, with or without seconds."""
_ACTION = r"^[a-z]{1,20}\.(\*|[a-z_]{1,40})$"
Name = Annotated[str | None, Query(max_length=300)]


@router.get("", response_model=RecordsOut)
async def listing(  # noqa: PLR0913, PLR0917 - one parameter for each filter; FastAPI passes them by name
    context: InContext,
    _principal: Admin,
    action: Annotated[
        str | None, Query(pattern=_ACTION, description="action, for example `lease.revoked` or `lease.*`")
    ] = None,
    by: Annotated[str | None, Query(alias="principal", max_length=300, description="actor")] = None,
    address: Annotated[str | None, Query(max_length=300, description="client address")] = None,
    subject: Annotated[
        str | None, Query(pattern=UUID_PATTERN, description="id of the lease, template, pool or token")
    ] = None,
    label: Annotated[
        str | None, Query(max_length=300, description="object: `name@fingerprint` or name of a token")
    ] = None,
    since: Annotated[str | None, Query(pattern=_INSTANT, description="earliest instant, inclusive")] = None,
    until: Annotated[str | None, Query(pattern=_INSTANT, description="latest instant, exclusive")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[str | None, Query(alias="cursor", pattern=CURSOR)] = None,
) -> Response:
    """Entries of the audit log, newest first: action, principal, client address and time.

    Actions:

    - `lease.acquired`, `.renewed`, `.released`, `.revoked`, `.expired`, `.kept`, `.reset`
    - `template.building`, `.ready`, `.failed`, `.retired`
    - `pool.resized`
    - `token.created`, `.rotated`, `.changed`, `.revoked`
    - `access.unauthorized`, `.forbidden`

    Equal heartbeats and refusals become one entry per minute, with `count` and `first_at` in `details`.
    """
    wanted = AuditFilter(
        action=action,
        principal=storable("principal", by),
        address=storable("address", address),
        subject=None if subject is None else UUID(subject),
        label=storable("label", label),
        since=_instant("since", since),
        until=_instant("until", until),
    )
    found = await context.resources.audit_log.listing(wanted, limit=limit, before=position(after))
    last = found[-1] if len(found) == limit else None
    page = RecordsOut(
        items=[RecordOut.of(one) for one in found], next=cursor(last.at, last.id) if last else None
    )
    return answer(page)


def _instant(field: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise invalid(field, f"{text} is not a valid date and time") from None
