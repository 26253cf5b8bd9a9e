"""Errors of embedded servers. Each message has the path or port, and the remedy."""

from __future__ import annotations

from freshdb_service.errors import FreshdbError


class EmbeddedError(FreshdbError):
    """An embedded server cannot start."""

    code = "embedded_failed"


class BinaryNotFound(EmbeddedError):
    """The program is not installed, or this user cannot run it."""


class DataDirectoryUnusable(EmbeddedError):
    """The data directory is not writable, or holds data of another version."""


class PortTaken(EmbeddedError):
    """Another process uses the requested port."""


class ServerNotStarted(EmbeddedError):
    """The program started but did not become ready. The message ends with its output."""
