"""The real client against the real service: what drifts apart fails here."""

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
    """A template that every test may lease from."""
    return client.ensure_sql(unique("shop"), [SCHEMA])


@pytest.fixture
def template(client: Client) -> Callable[[], Template]:
    """Makes a template of the test's own."""
    return lambda: client.ensure_sql(unique("own"), [SCHEMA])


def unique(name: str) -> str:
    return f"{name}-{secrets.token_hex(4)}"
