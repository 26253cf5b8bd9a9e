"""Suites as a user would write them, run by a separate pytest against a real service.

This is the embedded service, as for a user without any setting. It is started once for each xdist worker of this run, in a
separate data directory.
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
    """An empty suite. Its pytest gets the service and the template only from the environment."""
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\nfilterwarnings = error\n")
    return Suite(tmp_path, {"FRESHDB_URL": service_url, "FRESHDB_TEMPLATE": "shop"})


@pytest.fixture
def active(client: Client) -> Callable[[], list[Lease]]:
    """Return the active leases. Each worker has its own service, so these are the leases of the suite."""
    return lambda: client.leases(state="active")
