"""Cursors of lists: opaque to the caller, a position in the list's order to us."""

from __future__ import annotations

import base64
import binascii
from datetime import UTC, datetime
from uuid import UUID

from freshdb_service.api.problems import invalid


def cursor(at: datetime, identifier: UUID) -> str:
    """The cursor after an item."""
    return base64.urlsafe_b64encode(f"{at.isoformat()}|{identifier}".encode()).decode().rstrip("=")


def position(text: str | None) -> tuple[datetime, UUID] | None:
    """Read a cursor.

    Raises:
        InvalidRequest: it is none of ours.
    """
    if text is None:
        return None
    try:
        at, _, identifier = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode().partition("|")
        return datetime.fromisoformat(at).astimezone(UTC), UUID(identifier)
    except (ValueError, OverflowError, binascii.Error):
        field = "cursor"
        raise invalid(field, "this is no cursor; take it from `next` of the page before") from None
