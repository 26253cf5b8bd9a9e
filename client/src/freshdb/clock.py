"""The clock for the lifetime of leases: monotonic, and running while the machine is suspended.

``time.monotonic`` stops on Linux and macOS while a laptop is suspended, but its leases expire. The wall clock can jump.
So this is ``CLOCK_BOOTTIME`` on Linux, and ``CLOCK_MONOTONIC`` of the kernel on macOS and the BSDs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeAlias

Clock: TypeAlias = Callable[[], float]
"""Seconds since a fixed time. It never goes back."""

_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def elapsed_seconds() -> float:
    """Return the seconds since a fixed time in the past, suspended time included."""
    return time.clock_gettime(_CLOCK)
