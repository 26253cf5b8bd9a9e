"""Parts of Markdown pages."""

from __future__ import annotations

import re
from collections.abc import Iterable


def table(headings: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a table. Cells from docstrings may mark code as reStructuredText does."""
    head = tuple(headings)
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(_cell(str(cell)) for cell in line)} |\n" for line in lines)


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().replace("|", "\\|").replace("``", "`")


def code(value: object) -> str:
    """Return a value as code, or an empty string if there is no value."""
    return "" if value in (None, "", [], {}) else f"`{value}`"
