from __future__ import annotations

from collections.abc import Iterator

import pytest

from freshdb import Client
from tests.unit.client.scripted import Script, scripted_service


@pytest.fixture(autouse=True)
def _no_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FRESHDB_URL", "FRESHDB_TOKEN", "FRESHDB_DATA"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def script() -> Iterator[Script]:
    with scripted_service() as playing:
        yield playing


@pytest.fixture
def client(script: Script) -> Iterator[Client]:
    with Client(script.url, "t-secret", retry_seconds=5.0) as opened:
        yield opened
