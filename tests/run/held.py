"""A test for a run of its own (``test_endings``): it starts a server of each kind and holds them until it is killed."""

from __future__ import annotations

import os
from pathlib import Path
from threading import Event

from freshdb import ensure_service
from tests.servers import PostgresServer
from tests.services import Service


def test_hold(service: Service, postgres_18: PostgresServer, redis_url: str, tmp_path: Path) -> None:
    assert service.url
    assert postgres_18.dsn
    assert redis_url
    ensure_service(tmp_path / "embedded")
    found = Path(os.environ["HELD"])
    found.with_suffix(".new").write_text(os.environ["TEST_RUN_OF_FRESHDB"])
    found.with_suffix(".new").rename(found)
    Event().wait()
