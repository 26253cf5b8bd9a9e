"""``make demo``, on a data directory of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import freshdb
from tests.limits import LIMIT_SECONDS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def data() -> Iterator[Path]:
    """PostgreSQL runs as another user where this one is root, and has to reach it."""
    with tempfile.TemporaryDirectory(prefix="freshdb-demo-") as made:
        Path(made).chmod(0o755)
        yield Path(made)
        freshdb.stop_service(Path(made))


def test_demo_works(data: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, "demo/run.py"],
        cwd=ROOT,
        env={**environment, "FRESHDB_DATA": str(data)},
        capture_output=True,
        text=True,
        check=False,
        timeout=3 * LIMIT_SECONDS,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "seconds per clean database" in done.stdout
