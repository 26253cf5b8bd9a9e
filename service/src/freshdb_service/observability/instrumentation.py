"""What surrounds a visit to PostgreSQL or Redis: whoever makes one says what it is for, and others measure and trace it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Final, TypeAlias

Visiting: TypeAlias = Callable[[str], AbstractContextManager[object]]
"""Gives what surrounds one visit. What it is for is one of a few words, known when the program was written."""

_NOTHING: Final = nullcontext()


def unseen(what: str) -> AbstractContextManager[object]:
    """Nothing: nobody measures."""
    del what
    return _NOTHING
