"""What is wrong with the command line itself."""

from __future__ import annotations


class UsageError(Exception):
    """The command was called wrongly: exit code 2."""
