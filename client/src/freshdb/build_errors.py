"""Describes a failed build to people: the file, the line, the statement and PostgreSQL's hint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SHOWN_CHARACTERS: Final = 200


def describe_place(details: Mapping[str, object], files: Sequence[object]) -> str | None:
    """Return the file, line and statement that failed, and the hint. ``None`` if they are unknown.

    Args:
        details: ``extra`` of a ``TemplateFailed``.
        files: names of the SQL files, in their order.
    """
    index = details.get("sql_index")
    if not isinstance(index, int) or index >= len(files):
        return None
    statement = " ".join(str(details.get("statement") or "").split())
    hint = f" ({details['hint']})" if details.get("hint") else ""
    return f"{files[index]}, line {details.get('line', '?')}: {statement[:_SHOWN_CHARACTERS]}{hint}"
