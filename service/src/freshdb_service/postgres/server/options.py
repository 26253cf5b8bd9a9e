"""Options for managing a server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How servers are treated. Durations in seconds.

    Attributes:
        prefix: every name of ours begins with it.
        connection_limit: most connections of one lease; never more than half of what the server has for everybody.
        temp_file_bytes: most disk that one connection of a lease may take for temporary files, where our role may limit
            that; 0 leaves it to the server.
        deny: servers that must not be managed (``denial``).
        pool_size: most connections of the service to one server's maintenance database.
        rebuilds: most used databases that are made anew at once.
        command_timeout_seconds: how long one statement of the service may take; building and copying get longer.
        clone_strategy: ``auto`` is ``file_copy`` where the server runs with ``fsync`` off (no checkpoint has to reach the
            disk), else ``wal_log``.
        idle_sessions: most sessions inside databases that are kept open for the next reset.
        answer_seconds: a server that gives no sign of life for so long is lost (``pulse``).
        scram_iterations: how often a login's password is hashed; some drivers accept no less than 4096.
        pg_dump: needed for isolation ``schema``; at least as new as the newest server.
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
    pg_dump: Path | None = None
