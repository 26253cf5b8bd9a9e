"""Pieces of Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable


def table(headings: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table; in docstrings' cells, code is marked as reStructuredText does."""
    head = tuple(headings)
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(_cell(str(cell)) for cell in line)} |\n" for line in lines)


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().replace("|", "\\|").replace("``", "`")


def code(value: object) -> str:
    """A value as code; nothing, if it is none."""
    return "" if value in (None, "", [], {}) else f"`{value}`"
