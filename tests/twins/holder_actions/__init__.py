"""The catalogue of the twin test: everything that holders do with leased databases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tests.twins.holder_actions import (
    definitions_kept,
    definitions_undone,
    maintenance,
    mixed,
    rows,
    sequences,
    sessions,
)
from tests.twins.holder_actions.action import MARKER, Ending, Holder, HolderAction, Isolation

__all__ = ["ACTIONS", "GROUPS", "MARKER", "Ending", "Holder", "HolderAction", "Isolation"]

GROUPS: Final[Mapping[str, tuple[HolderAction, ...]]] = {
    "rows": rows.ACTIONS,
    "maintenance": maintenance.ACTIONS,
    "sequences": sequences.ACTIONS,
    "definitions undone": definitions_undone.ACTIONS,
    "definitions kept": definitions_kept.ACTIONS,
    "sessions": sessions.ACTIONS,
    "mixed": mixed.ACTIONS,
}
ACTIONS: Final = tuple(action for group in GROUPS.values() for action in group)
