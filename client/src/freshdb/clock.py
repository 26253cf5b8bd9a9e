"""The clock that leases are counted by: monotonic, and it goes on while the machine sleeps.

``time.monotonic`` stands still on Linux and macOS while a laptop is suspended; a lease does not. The wall clock
jumps. So: ``CLOCK_BOOTTIME`` on Linux, ``CLOCK_MONOTONIC`` as the kernel of macOS and the BSDs counts it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeAlias

Clock: TypeAlias = Callable[[], float]
"""Seconds since some instant; never goes back."""


_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def elapsed_seconds() -> float:
    """Seconds since some instant in the past, suspended time included."""
    return time.clock_gettime(_CLOCK)
