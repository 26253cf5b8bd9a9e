"""A service with a proxy in front of each of its servers. The servers serve these tests only, because faults damage them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from freshdb_service.embedded import EmbeddedPostgres, EmbeddedRedis
from tests.faults.installation import SETTINGS, Installation
from tests.faults.proxy import Proxy
from tests.runs import run_sync
from tests.servers import Servers
from tests.services import start_service


@pytest.fixture(scope="package")
def installation(servers: Servers) -> Iterator[Installation]:
    """One installation for all tests here. Each test leaves it in its initial state."""
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
        control, managed, redis_proxy = (stack.enter_context(Proxy(url)) for url in (dsn, dsn, first))
        service = start_service(
            [f"one={managed.url}"], redis_proxy.url, settings=SETTINGS, control=control.url
        )
        created = Installation(service, control, managed, redis_proxy, postgres, dsn, first, second)
        created.post("/v1/templates", {"name": "t", "sql": ["create table t (id int)"]}, 201)
        yield created
        assert service.stop() == 0


@pytest.fixture(autouse=True)
def _no_leases_afterwards(request: pytest.FixtureRequest) -> Iterator[None]:
    """Release all leases after each test, so that a failed test does not make the next one fail."""
    yield
    if "installation" in request.fixturenames:
        installation: Installation = request.getfixturevalue("installation")
        for lease in installation.listed("/v1/leases"):
            installation.request("DELETE", f"/v1/leases/{lease['id']}")
