"""The real client against the real service, to detect differences between them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator

import pytest

from freshdb import Client, Template
from tests.services import Service

SCHEMA = "create table item (id int primary key, name text); insert into item values (1, 'one')"


@pytest.fixture(scope="session")
def client(service: Service) -> Iterator[Client]:
    with Client(service.url, "") as opened:
        yield opened


@pytest.fixture(scope="session")
def shop(client: Client) -> Template:
    """A template for the leases of all tests."""
    return client.ensure_sql(unique("shop"), [SCHEMA])


@pytest.fixture
def template(client: Client) -> Callable[[], Template]:
    """Creates a template for one test."""
    return lambda: client.ensure_sql(unique("own"), [SCHEMA])


def unique(name: str) -> str:
    return f"{name}-{secrets.token_hex(4)}"
