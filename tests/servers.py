"""The real servers of the tests: each starts when it is first used, and serves all processes of a run.

The process that needs a server first starts it below the run's directory. The others use it. ``tests.runs`` ends them all.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final, Literal

from freshdb_service.embedded import EmbeddedPostgres, EmbeddedRedis, postgres_binaries
from tests.runs import run_sync

MAJORS: Final = (18, 16, 15)
ALL_MAJORS_REQUIRED: Final = os.environ.get("CI", "").lower() in {"1", "true"}


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A running PostgreSQL. ``dsn`` has a superuser's login."""

    dsn: str
    server: EmbeddedPostgres
    major: int


@dataclass(slots=True)
class Servers:
    """The servers of one test run, below one directory."""

    root: Path
    _started: dict[str, PostgresServer] = field(default_factory=dict)
    _handles: list[EmbeddedPostgres | EmbeddedRedis] = field(default_factory=list)

    def postgres(
        self, major: int, auth: Literal["scram-sha-256", "trust"] = "scram-sha-256", owner: str = "all"
    ) -> PostgresServer:
        """Start, or share, the server of this version. ``owner`` names a separate one for tests that disturb others."""
        name = f"postgres-{major}-{auth}-{owner}"
        if name not in self._started:
            binaries = postgres_binaries(major)
            if binaries is None:
                raise LookupError(f"PostgreSQL {major} is not installed")
            server = EmbeddedPostgres(self.root / name, binaries=binaries, auth=auth)
            self._handles.append(server)
            self._started[name] = PostgresServer(run_sync(server.start()), server, major)
        return self._started[name]

    def redis(self, owner: str) -> str:
        """Start a Redis for one of the run's processes, because its messages would reach the others."""
        server = EmbeddedRedis(self.root / f"redis-{owner}")
        self._handles.append(server)
        return run_sync(server.start())


def wanted_majors() -> Sequence[int]:
    """Return the versions to test, the newest first: all, or those that ``FRESHDB_TEST_POSTGRES`` names.

    A version that is not installed is left out, unless CI requires all versions.
    """
    named = os.environ.get("FRESHDB_TEST_POSTGRES")
    if named:
        return [int(word) for word in named.replace(",", " ").split()]
    return MAJORS if ALL_MAJORS_REQUIRED else _installed_majors()


@cache
def _installed_majors() -> Sequence[int]:
    """Return the installed versions. To find them runs programs, and the collection of tests asks thousands of times."""
    return [major for major in MAJORS if postgres_binaries(major)]
