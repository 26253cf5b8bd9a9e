"""Why an embedded server cannot run. Each message names the path or port, and the mend."""

from __future__ import annotations

from freshdb_service.errors import FreshdbError


class EmbeddedError(FreshdbError):
    """An embedded server cannot be started."""

    code = "embedded_failed"


class BinaryNotFound(EmbeddedError):
    """The program is not on this machine, or this user cannot run it."""


class DataDirectoryUnusable(EmbeddedError):
    """The data directory cannot be written, or holds another version's data."""


class PortTaken(EmbeddedError):
    """The port that was asked for belongs to somebody else."""


class ServerNotStarted(EmbeddedError):
    """The program ran, but did not come up; the message ends with what it said."""
