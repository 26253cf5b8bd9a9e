"""The route of the audit trail."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from fastapi.responses import Response

from freshdb_service.api.context import Admin, InContext, answer
from freshdb_service.api.pagination import CURSOR, UUID_PATTERN, cursor, position
from freshdb_service.api.problems import invalid
from freshdb_service.api.schemas_auth import RecordOut, RecordsOut
from freshdb_service.store.audit_log import AuditFilter

router = APIRouter(prefix="/audit", tags=["audit"])

_INSTANT = (
    r"^(19|2[0-9])[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]{1,6})?)?"
    r"(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"
)
"""RFC 3339, with or without the seconds."""
_ACTION = r"^[a-z]{1,20}\.(\*|[a-z_]{1,40})$"
Name = Annotated[str | None, Query(max_length=300)]


@router.get("", response_model=RecordsOut)
async def listing(  # noqa: PLR0913, PLR0917 - one parameter for each filter; FastAPI passes them by name
    context: InContext,
    principal: Admin,
    action: Annotated[
        str | None,
        Query(pattern=_ACTION, description="`lease.revoked`; or `lease.*` for all that was done to leases"),
    ] = None,
    by: Annotated[str | None, Query(alias="principal", max_length=300, description="who did it")] = None,
    address: Annotated[str | None, Query(max_length=300, description="from where")] = None,
    subject: Annotated[
        str | None, Query(pattern=UUID_PATTERN, description="id of the lease, template, pool or token")
    ] = None,
    label: Annotated[
        str | None, Query(max_length=300, description="its name: `name@fingerprint`, or that of the token")
    ] = None,
    since: Annotated[str | None, Query(pattern=_INSTANT, description="not before")] = None,
    until: Annotated[str | None, Query(pattern=_INSTANT, description="before")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[str | None, Query(alias="cursor", pattern=CURSOR)] = None,
) -> Response:
    """Who did what, from where, and when; the newest first.

    `lease.acquired`, `.renewed`, `.released`, `.revoked`, `.expired`, `.kept`, `.reset`; `template.building`, `.ready`,
    `.failed`, `.retired`; `pool.resized`; `token.created`, `.rotated`, `.changed`, `.revoked`; `access.unauthorized`,
    `.forbidden`. Heartbeats and refusals that are alike are one record a minute, with `count` and `first_at` in
    `details`.
    """
    del principal
    wanted = AuditFilter(
        action=action,
        principal=_storable("principal", by),
        address=_storable("address", address),
        subject=None if subject is None else UUID(subject),
        label=_storable("label", label),
        since=_instant("since", since),
        until=_instant("until", until),
    )
    found = await context.resources.audit_log.listing(wanted, limit=limit, before=position(after))
    last = found[-1] if len(found) == limit else None
    page = RecordsOut(
        items=[RecordOut.of(one) for one in found], next=cursor(last.at, last.id) if last else None
    )
    return answer(page)


def _storable(field: str, value: str | None) -> str | None:
    if value is not None and "\x00" in value:
        raise invalid(field, "the character U+0000 cannot be in it")
    return value


def _instant(field: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise invalid(field, "there is no such instant") from None
