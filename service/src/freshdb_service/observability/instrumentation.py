"""Instrumentation of calls to PostgreSQL and Redis: a context manager around each call measures and traces it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Final, TypeAlias

Instrument: TypeAlias = Callable[[str], AbstractContextManager[object]]
"""Returns the context manager around one call. Its argument is the operation, one of a few fixed words."""

_NOTHING: Final = nullcontext()


def no_instrument(_what: str) -> AbstractContextManager[object]:
    """Return a context manager that does nothing."""
    return _NOTHING
