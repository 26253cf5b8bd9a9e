"""Exit codes, as ``sysexits.h`` and shells define them, and the error for a wrong command line."""

from __future__ import annotations

from typing import Final

FAILED: Final = 1
USAGE: Final = 2
LEASE_LOST: Final = 75
CANNOT_EXECUTE: Final = 126
NOT_FOUND: Final = 127
BY_SIGNAL: Final = 128
INTERRUPTED: Final = 130


class UsageError(Exception):
    """The command line is wrong: exit code 2."""
