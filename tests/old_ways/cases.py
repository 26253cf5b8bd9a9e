"""The suite: 200 tests of the application, each of which commits. Each step defines its own fixture ``client``."""

from __future__ import annotations

import os
from uuid import UUID

import pytest

from tests.old_ways.caller import Caller

ANN, PEN = UUID(int=1), UUID(int=2)
"""Constant identifiers, as in many suites. Two simultaneous tests in one database would collide."""
TIMES = int(os.environ.get("OLD_WAYS_TESTS", "200")) // 4

pytestmark = pytest.mark.parametrize("number", range(TIMES))


def put_ann(client: Caller) -> None:
    client.ask("PUT", f"/customers/{ANN}", email="ann@example.org").raise_for_status()


def buy(client: Caller, amount: int, purchase: UUID = PEN) -> None:
    client.ask("PUT", f"/customers/{ANN}/purchases/{purchase}", amount=amount).raise_for_status()


def test_nobody_is_there_at_first(client: Caller, number: int) -> None:
    assert client.ask("GET", f"/customers/{ANN}/spent").status_code == 404
    put_ann(client)
    assert client.ask("GET", f"/customers/{ANN}/spent").json() == 0, number


def test_what_is_bought_adds_up(client: Caller, number: int) -> None:
    put_ann(client)
    buy(client, number)
    buy(client, 5, UUID(int=3))
    assert client.ask("GET", f"/customers/{ANN}/spent").json() == number + 5


def test_notes_are_numbered_from_one(client: Caller, number: int) -> None:
    put_ann(client)
    buy(client, number)
    assert client.ask("POST", f"/purchases/{PEN}/notes", body="thanks").json() == 1


def test_answers_say_which_test_asked(client: Caller, number: int, request: pytest.FixtureRequest) -> None:
    answer = client.ask("GET", f"/customers/{ANN}/spent")
    assert answer.headers.get_list("x-test") == [request.node.name], number
