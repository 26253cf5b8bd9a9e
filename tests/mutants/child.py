"""Runs pytest as often as it is asked to, in a fork that need not import libraries or start PostgreSQL.

``python -m tests.mutants.child`` reads lines from its input, each a JSON list: a file for the output, and the arguments.
It answers with the exit code. Only the service's own modules are imported again, because one of them is mutated.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Final

import pytest

from tests.runs import Run
from tests.servers import Servers

_LIBRARIES: Final = (
    "alembic.command",
    "alembic.autogenerate",
    "asyncpg",
    "hypothesis",
    "psycopg.types.json",
    "pytest_asyncio.plugin",
    "pytest_timeout",
    "redis.asyncio",
    "sqlalchemy.dialects.postgresql.asyncpg",
    "sqlalchemy.ext.asyncio",
)


class JoinedRun:
    """A plugin that joins a run which has begun, as the worker of pytest-xdist does."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        """Say where the servers are."""
        config.workerinput = {"freshdb_test_servers": str(self._root)}  # type: ignore[attr-defined]


def main() -> None:
    """Answer until there is nothing more to read."""
    for library in _LIBRARIES:
        importlib.import_module(library)
    # The threads that start with the server trim its log, and are not needed in a fork.
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    run = Run.begin()
    try:
        Servers(run.root).postgres(18)
        assert not any(name.startswith("freshdb_service.store") for name in sys.modules)
        for line in sys.stdin:
            output, *arguments = json.loads(line)
            pid = os.fork()
            if not pid:
                os._exit(_tests(run.root, output, arguments))
            _, status = os.waitpid(pid, 0)
            print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201 - the parent reads it
    finally:
        run.end()


def _tests(root: Path, output: str, arguments: list[str]) -> int:
    opened = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(opened, stream)
    code = int(pytest.main(arguments, plugins=[JoinedRun(root)]))
    sys.stdout.flush()
    return code


if __name__ == "__main__":
    main()
