"""Runs the suite at one step, in a pytest of its own. The tests run a small part of it, ``make bench`` all of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psycopg
from sqlalchemy import make_url

ROOT: Final = Path(__file__).parents[2]
STEPS: Final = ("before", "leases", "rollback")
_PROJECT: Final = """
[tool.freshdb]
template = "legacy_suite"
inputs = ["application.py"]
build = ["{python}", "-m", "tests.legacy_suite.application"]
[tool.pytest.ini_options]
filterwarnings = ["error", "ignore::DeprecationWarning"]
"""


@contextmanager
def shared_database(server: str) -> Iterator[str]:
    """Create the one test database of the old way, and yield SQLAlchemy's URL of it."""
    url = make_url(server).set(drivername="postgresql+psycopg", database=f"legacy_suite_{os.getpid()}")
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {url.database}".encode())
        try:
            yield url.render_as_string(hide_password=False)
        finally:
            connection.execute(f"DROP DATABASE {url.database} WITH (FORCE)".encode())


def make_project(directory: Path) -> None:
    """Write the files at the root of the suite's project."""
    (directory / "pyproject.toml").write_text(_PROJECT.format(python=sys.executable))
    (directory / "application.py").write_text((ROOT / "tests/legacy_suite/application.py").read_text())


def run_suite(
    project: Path, step: str, service_url: str, database_url: str, *, tests: int, workers: int = 0
) -> float:
    """Run the suite, check that every test passed, and return the seconds.

    Raises:
        RuntimeError: a test did not pass. The message has pytest's output.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FRESHDB_")} | {
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": str(ROOT),
        "FRESHDB_URL": service_url,
        "LEGACY_SUITE_TESTS": str(tests),
    }
    if step == "before":
        environment["DATABASE_URL"] = database_url
    plugins = [*(["xdist"] if workers else []), *(["freshdb"] if step != "before" else [])]
    plugins.append(f"tests.legacy_suite.steps.{step}")
    command = [
        *(sys.executable, "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider"),
        *("-c", str(project / "pyproject.toml"), *(["-n", str(workers)] if workers else [])),
        *(word for plugin in plugins for word in ("-p", plugin)),
        str(ROOT / "tests/legacy_suite/cases.py"),
    ]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    taken = time.perf_counter() - began
    if done.returncode or not re.search(rf"\b{tests} passed", done.stdout):
        raise RuntimeError(f"{step}:\n{done.stdout}\n{done.stderr}")
    return taken
