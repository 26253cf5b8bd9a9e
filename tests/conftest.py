"""Fixtures with real servers. See ``servers``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import hypothesis
import pytest
import redis

from tests import services, shares
from tests.limits import LIMIT_SECONDS
from tests.runs import Run
from tests.servers import ALL_MAJORS_REQUIRED, PostgresServer, Servers, wanted_majors
from tests.services import Service, start_service

# Container images often set this. Then each process of the tests would compile every module again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A deadline would fail on a busy machine.
hypothesis.settings.register_profile("freshdb", deadline=None)
hypothesis.settings.load_profile("freshdb")

_RUN = pytest.StashKey[Run]()
_SERVERS = pytest.StashKey[Servers]()
_ROOT = "freshdb_test_servers"


class _Node(Protocol):
    """The attributes of xdist's worker node that are used here."""

    config: pytest.Config
    workerinput: dict[str, object]


def pytest_configure(config: pytest.Config) -> None:
    services.FORKED = True
    shares.current_turn()  # before the workers start, which inherit it
    root = getattr(config, "workerinput", {}).get(_ROOT)
    if root is None:
        config.stash[_RUN] = Run.begin()
        root = config.stash[_RUN].root
    config.stash[_SERVERS] = Servers(Path(root))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests that run on this turn."""
    kept = shares.chosen(items)
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]


def pytest_report_header() -> str:
    return f"FRESHDB_TURN={shares.current_turn()}: the share of the cases that this run has (tests/shares.py)"


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: _Node) -> None:
    node.workerinput[_ROOT] = str(node.config.stash[_SERVERS].root)


def pytest_unconfigure(config: pytest.Config) -> None:
    if _RUN in config.stash:
        config.stash[_RUN].end()


@pytest.fixture
def frequent_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Renew leases and builds of LIMIT_SECONDS every 0.05 s. Renewals come soon, and a slow machine loses no lease."""
    monkeypatch.setattr("freshdb.heartbeat.PART", 0.05 / LIMIT_SECONDS)


@pytest.fixture(scope="session")
def servers(pytestconfig: pytest.Config) -> Servers:
    return pytestconfig.stash[_SERVERS]


@pytest.fixture(scope="session")
def postgres_18(servers: Servers) -> PostgresServer:
    return _server(servers, 18)


@pytest.fixture(scope="session")
def postgres_16(servers: Servers) -> PostgresServer:
    return _server(servers, 16)


@pytest.fixture(scope="session")
def postgres_15(servers: Servers) -> PostgresServer:
    return _server(servers, 15)


@pytest.fixture(scope="session")
def postgres_trust(servers: Servers) -> PostgresServer:
    """PostgreSQL 18 that admits every existing user without a password."""
    return servers.postgres(18, "trust")


@pytest.fixture(scope="session", params=wanted_majors(), ids=lambda major: f"pg{major}")
def postgres(request: pytest.FixtureRequest, servers: Servers) -> PostgresServer:
    """The newest version, and a share of the tests on each older one."""
    return _server(servers, request.param)


@pytest.fixture(scope="session", params=wanted_majors(), ids=lambda major: f"pg{major}")
def every_postgres(request: pytest.FixtureRequest, servers: Servers) -> PostgresServer:
    """Every version."""
    return _server(servers, request.param)


@pytest.fixture(scope="session")
def redis_server_url(servers: Servers) -> str:
    """A Redis of this test process only."""
    return servers.redis(os.environ.get("PYTEST_XDIST_WORKER", "main"))


@pytest.fixture
def redis_url(redis_server_url: str) -> str:
    """An empty Redis."""
    with redis.Redis.from_url(redis_server_url) as connection:
        connection.flushall()
    return redis_server_url


@pytest.fixture(scope="session")
def service_redis_url(servers: Servers) -> str:
    """A Redis of this test process's shared service. Tests that empty Redis use ``redis_url``."""
    return servers.redis(f"service-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}")


@pytest.fixture(scope="session")
def service(postgres_18: PostgresServer, service_redis_url: str) -> Iterator[Service]:
    """A running service, shared by the tests of this process, which use templates of their own."""
    running = start_service([postgres_18.dsn], service_redis_url, settings={"min_ready": 1})
    yield running
    assert running.stop() == 0


def _server(servers: Servers, major: int) -> PostgresServer:
    try:
        return servers.postgres(major)
    except LookupError as error:
        if ALL_MAJORS_REQUIRED:
            pytest.fail(f"{error}, and CI tests every version: see .ci/run")
        pytest.skip(str(error))
