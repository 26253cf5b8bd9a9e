"""A service with a proxy in front of each of its servers. The servers serve these tests only, because faults damage them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from freshdb_service.embedded import EmbeddedPostgres, EmbeddedRedis
from tests.faults.proxy import Proxy
from tests.faults.stage import SETTINGS, Stage
from tests.runs import run_sync
from tests.servers import Servers
from tests.services import start_service


@pytest.fixture(scope="package")
def stage(servers: Servers) -> Iterator[Stage]:
    """One stage for all tests here. Each test leaves it in its initial state."""
    directory = Path(tempfile.mkdtemp(prefix="scratch-faults-", dir=servers.root))
    directory.chmod(0o711)
    postgres = EmbeddedPostgres(directory / "postgres", settings={"max_connections": "80"})
    redis = [EmbeddedRedis(directory / name) for name in ("redis-first", "redis-second")]
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, directory)
        stack.callback(lambda: run_sync(postgres.stop()))
        for server in redis:
            stack.callback(lambda one: run_sync(one.stop()), server)
        dsn, first, second = run_sync(postgres.start()), *(run_sync(server.start()) for server in redis)
        control, managed, keys = (stack.enter_context(Proxy(url)) for url in (dsn, dsn, first))
        service = start_service([f"one={managed.url}"], keys.url, settings=SETTINGS, control=control.url)
        made = Stage(service, control, managed, keys, postgres, dsn, first, second)
        made.post("/v1/templates", {"name": "t", "sql": ["create table t (id int)"]}, 201)
        yield made
        assert service.stop() == 0


@pytest.fixture(autouse=True)
def _no_leases_afterwards(request: pytest.FixtureRequest) -> Iterator[None]:
    """Release all leases after each test, so that a failed test does not make the next one fail."""
    yield
    if "stage" in request.fixturenames:
        stage: Stage = request.getfixturevalue("stage")
        for lease in stage.items("/v1/leases"):
            stage.ask("DELETE", f"/v1/leases/{lease['id']}")
