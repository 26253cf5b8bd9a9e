from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests import plain_http
from tests.limits import LIMIT_SECONDS
from tests.services import Service

Answer = dict[str, Any]


@pytest.fixture(scope="session")
def http(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(
        verify=plain_http.NO_CERTIFICATES, base_url=service.url, timeout=LIMIT_SECONDS
    ) as client:
        yield client


@pytest.fixture
def name() -> str:
    """Return a template name that no other test uses."""
    return f"t{secrets.token_hex(6)}"


@pytest.fixture(scope="session")
def shop(http: httpx.Client) -> str:
    """Register a template and return its ``name@fingerprint``."""
    answer = http.post(
        "/v1/templates",
        json={
            "name": "shop",
            "sql": [
                "create table item (id serial primary key, name text not null, price numeric check (price >= 0));",
                "insert into item (name, price) values ('apple', 1), ('pear', 2)",
            ],
        },
    )
    assert answer.status_code in {200, 201}, answer.text
    template = answer.json()
    assert template["state"] == "ready", template
    return f"{template['name']}@{template['fingerprint']}"


@pytest.fixture
def acquire(http: httpx.Client, shop: str) -> Iterator[Callable[..., Answer]]:
    """Acquire leases of ``shop`` (or another template), and release them at the end."""
    held: list[str] = []

    def call(**body: object) -> Answer:
        answer = http.post("/v1/leases", json={"template": shop, **body})
        assert answer.status_code == 201, answer.text
        lease: Answer = answer.json()
        held.append(lease["id"])
        return lease

    yield call
    for lease_id in held:
        http.delete(f"/v1/leases/{lease_id}")
