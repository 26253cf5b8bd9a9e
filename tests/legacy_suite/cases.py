"""The suite: 200 tests of the application, each of which commits. Each step defines its own fixture ``client``."""

from __future__ import annotations

import os
from uuid import UUID

import pytest

from tests.legacy_suite.app_client import AppClient

ANN, PEN = UUID(int=1), UUID(int=2)
"""Constant identifiers, as in many suites. Two simultaneous tests in one database would collide."""
REPEATS = int(os.environ.get("LEGACY_SUITE_TESTS", "200")) // 4

pytestmark = pytest.mark.parametrize("number", range(REPEATS))


def create_ann(client: AppClient) -> None:
    client.request("PUT", f"/customers/{ANN}", email="ann@example.org").raise_for_status()


def buy(client: AppClient, amount: int, purchase: UUID = PEN) -> None:
    client.request("PUT", f"/customers/{ANN}/purchases/{purchase}", amount=amount).raise_for_status()


def test_customer_does_not_exist_before_it_is_created(client: AppClient, number: int) -> None:
    assert client.request("GET", f"/customers/{ANN}/spent").status_code == 404
    create_ann(client)
    assert client.request("GET", f"/customers/{ANN}/spent").json() == 0, number


def test_purchases_add_up(client: AppClient, number: int) -> None:
    create_ann(client)
    buy(client, number)
    buy(client, 5, UUID(int=3))
    assert client.request("GET", f"/customers/{ANN}/spent").json() == number + 5


def test_notes_are_numbered_from_one(client: AppClient, number: int) -> None:
    create_ann(client)
    buy(client, number)
    assert client.request("POST", f"/purchases/{PEN}/notes", body="thanks").json() == 1


def test_response_names_its_test(client: AppClient, number: int, request: pytest.FixtureRequest) -> None:
    answer = client.request("GET", f"/customers/{ANN}/spent")
    assert answer.headers.get_list("x-test") == [request.node.name], number
