"""Cursors of lists: opaque to the caller, a position in the list's order to us.

A cursor is the instant of an item (microseconds since 1970) and its id. That is a form which a pattern describes exactly, so
that the OpenAPI document can say what is a cursor and what is none.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

UUID_PATTERN: Final = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
CURSOR: Final = rf"^[0-9]{{1,16}}\.{UUID_PATTERN.removeprefix('^')}"

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def cursor(at: datetime, identifier: UUID) -> str:
    """The cursor after an item."""
    return f"{(at - _EPOCH) // timedelta(microseconds=1)}.{identifier}"


def position(text: str | None) -> tuple[datetime, UUID] | None:
    """Read a cursor, which has the form of ``CURSOR``."""
    if text is None:
        return None
    microseconds, _, identifier = text.partition(".")
    return _EPOCH + timedelta(microseconds=int(microseconds)), UUID(identifier)
