"""Cursors of lists: opaque to the caller, and a position in the order of the list to the service.

A cursor is an item's instant (microseconds since 1970) and id. A pattern describes this form exactly, so the OpenAPI
document can have it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

UUID_PATTERN: Final = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
CURSOR: Final = rf"^[0-9]{{1,16}}\.{UUID_PATTERN.removeprefix('^')}"

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def cursor(at: datetime, identifier: UUID) -> str:
    """Return the cursor after an item."""
    return f"{(at - _EPOCH) // timedelta(microseconds=1)}.{identifier}"


def position(text: str | None) -> tuple[datetime, UUID] | None:
    """Parse a cursor, which must match ``CURSOR``."""
    if text is None:
        return None
    microseconds, _, identifier = text.partition(".")
    return _EPOCH + timedelta(microseconds=int(microseconds)), UUID(identifier)
