"""Suites that a user could have written, run by a pytest of their own against a real service.

The service is the embedded one, started once per worker of this run in a data directory of its own: it is
what a user without any setting gets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from freshdb import Client, Lease, ensure_service, stop_service
from tests.plugin.suites import Suite

SHOP = """
CREATE TABLE item (id int GENERATED ALWAYS AS IDENTITY, name text);
INSERT INTO item (name) VALUES ('pen');
"""


@pytest.fixture(scope="package")
def service_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An embedded service with the template ``shop``."""
    data = tmp_path_factory.mktemp("service")
    url = ensure_service(data)
    try:
        with Client(url) as client:
            client.ensure_sql("shop", [SHOP])
        yield url
    finally:
        stop_service(data)


@pytest.fixture
def client(service_url: str) -> Iterator[Client]:
    with Client(service_url) as client:
        yield client


@pytest.fixture
def suite(tmp_path: Path, service_url: str) -> Suite:
    """An empty suite; its pytest is pointed at the service by the environment, and nothing else."""
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\nfilterwarnings = error\n")
    return Suite(tmp_path, {"FRESHDB_URL": service_url, "FRESHDB_TEMPLATE": "shop"})


@pytest.fixture
def active(client: Client) -> Callable[[], list[Lease]]:
    """The leases held just now: the service is this worker's own, so they are this test's suite's."""
    return lambda: client.leases(state="active")
