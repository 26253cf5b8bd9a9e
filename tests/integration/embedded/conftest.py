"""Directories for embedded servers, which are stopped after the test."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from freshdb_service.embedded import placement
from tests.runs import end_servers_in
from tests.servers import Servers

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs servers as another user")


@pytest.fixture
def directory(servers: Servers) -> Iterator[Path]:
    """A directory that the servers' user can traverse. Servers that still run in it are stopped."""
    made = Path(tempfile.mkdtemp(prefix="scratch-", dir=servers.root))
    made.chmod(0o711)
    yield made
    end_servers_in(made)
    shutil.rmtree(made)


@pytest.fixture
def shelter(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory of this test for relocated data and copied programs."""
    monkeypatch.setattr(placement, "ROOT_DATA", directory / "shelter")
    yield directory / "shelter"
    if (directory / "shelter" / "data").is_dir():
        end_servers_in(directory / "shelter" / "data")


@pytest.fixture
def closed(directory: Path) -> Path:
    """A directory that only its owner can traverse."""
    made = directory / "closed"
    made.mkdir(mode=0o700)
    return made
