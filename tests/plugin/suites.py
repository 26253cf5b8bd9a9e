"""Suites as a user would write them, run by a separate pytest."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.environments import WARNINGS_AS_ERRORS
from tests.limits import LIMIT_SECONDS

BEAT_OFTEN = f"""
import freshdb.heartbeat

freshdb.heartbeat.PART = 0.05 / {LIMIT_SECONDS}  # leases of {LIMIT_SECONDS:.0f} s are renewed every 0.05 s
"""
"""A ``conftest.py`` for a suite that runs with a TTL of LIMIT_SECONDS."""


@dataclass
class Finished:
    """A pytest that has ended."""

    status: int
    output: str

    def counts(self) -> dict[str, int]:
        """Return the numbers of the last line by their words: passed, failed, error, warning, …"""
        words = self.output.rstrip().splitlines()[-1].strip("= ").split(" in ")[0].split(", ")
        return {
            word.partition(" ")[2].rstrip("s"): int(word.partition(" ")[0])
            for word in words
            if word[:1].isdigit()
        }


@dataclass
class Suite:
    """A directory with tests, and a pytest that runs them."""

    directory: Path
    environment: dict[str, str] = field(default_factory=dict)

    def write(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.write_text(textwrap.dedent(text))
        return path

    def whole_environment(self) -> dict[str, str]:
        return _clean_environment() | WARNINGS_AS_ERRORS | self.environment

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        # loading the other installed plugins would take three times as long as the rest of such a run
        plugins = ["-p", "freshdb", "-p", "xdist", "-p", "no:cacheprovider"]
        command = [sys.executable, "-m", "pytest", *plugins, *arguments]
        return subprocess.Popen(
            command,
            cwd=self.directory,
            env=self.whole_environment() | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, **environment: str) -> Finished:
        with self.start(*arguments, **environment) as process:
            return finish(process)


def finish(process: subprocess.Popen[str]) -> Finished:
    """Wait until a pytest ends."""
    try:
        output, _ = process.communicate(timeout=2 * LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return Finished(process.returncode, output)


def eventually(holds: Callable[[], bool], what: str) -> None:
    """Wait, bounded, until `holds`."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {LIMIT_SECONDS:.0f} s: {what}")
        time.sleep(0.02)


def _clean_environment() -> dict[str, str]:
    """Return our environment without variables of the outer pytest, its CI and its service."""
    ours = ("FRESHDB_", "PYTEST_", "GITHUB_", "CI_", "BUILD", "CIRCLE", "COV_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return kept | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
