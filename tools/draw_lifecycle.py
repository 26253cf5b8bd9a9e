"""Draws docs/lifecycle.md from the state machine's own tables; a test holds the two together."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from freshdb_service.lifecycle import (
    DATABASE_TRANSITIONS,
    LEASE_TRANSITIONS,
    TEMPLATE_TRANSITIONS,
    DatabaseState,
    LeaseState,
    TemplateState,
)

DOCUMENT = Path(__file__).parents[1] / "docs" / "lifecycle.md"


def drawing() -> str:
    """The document's text."""
    parts = [
        "# States\n",
        "Drawn by `python tools/draw_lifecycle.py` from `freshdb_service.lifecycle`, where alone it is said.\n",
        _diagram("A database", DatabaseState.CREATING, DATABASE_TRANSITIONS),
        _diagram("A lease", LeaseState.ACTIVE, LEASE_TRANSITIONS),
        _diagram("A template", TemplateState.BUILDING, TEMPLATE_TRANSITIONS),
    ]
    return "\n".join(parts)


S = TypeVar("S", bound=StrEnum)


def _diagram(title: str, start: S, table: Mapping[S, frozenset[S]]) -> str:
    lines = [f"## {title}\n", "```mermaid", "stateDiagram-v2", f"    [*] --> {start}"]
    lines += [f"    {old} --> {new}" for old, news in table.items() for new in sorted(news)]
    lines += [f"    {state} --> [*]" for state, news in table.items() if not news]
    return "\n".join([*lines, "```\n"])


if __name__ == "__main__":
    DOCUMENT.write_text(drawing())
