"""Options for all managed servers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from freshdb_service.config import WRITABLE_EXTENSIONS


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Options for all managed servers. Durations are in seconds.

    Attributes:
        prefix: prefix of all names of freshdb's objects.
        connection_limit: maximum connections per lease. It is never more than half of what the server has for all.
        temp_file_bytes: maximum disk space for temporary files per connection of a lease, where the service's role may
            limit it. 0 keeps the server's limit.
        deny: servers that must not be managed (``deny_list``).
        pool_size: maximum connections of the service to the maintenance database of one server.
        rebuilds: maximum used databases that are rebuilt at the same time, per server.
        command_timeout_seconds: timeout for one statement of the service. Building and copying have longer ones.
        clone_strategy: ``auto`` means ``file_copy`` where the server runs with ``fsync`` off (no checkpoint has to reach
            the disk), and ``wal_log`` elsewhere.
        idle_sessions: maximum idle sessions in databases, which are kept open for the next reset.
        answer_seconds: time without a sign of life after which a server counts as lost (``liveness``).
        scram_iterations: iterations of the hash of a login's password. Some drivers require at least 4096.
        writable_extensions: extensions whose tables builders and holders may write (``provision.extensions``).
        pg_dump: path of ``pg_dump``, which isolation ``schema`` needs. It must be at least as new as the newest server.
    """

    prefix: str = "freshdb"
    connection_limit: int = 50
    temp_file_bytes: int = 0
    deny: tuple[str, ...] = ()
    pool_size: int = 8
    rebuilds: int = 4
    command_timeout_seconds: float = 60.0
    clone_strategy: Literal["auto", "wal_log", "file_copy"] = "auto"
    idle_sessions: int = 64
    answer_seconds: float = 10.0
    scram_iterations: int = 4096
    writable_extensions: tuple[str, ...] = WRITABLE_EXTENSIONS
    pg_dump: Path | None = None
