"""Shares: each turn has one share of the cases of a kind, and the turns in a row have all of them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import shares
from tests.servers import wanted_majors
from tests.shares import OLDER_VERSION, chosen, share

CASES = [f"test_it[{number}]" for number in range(10)]


class Item:
    """The attributes of a test that ``chosen`` reads."""

    def __init__(self, file: str, name: str, **parameters: object) -> None:
        self.parent = SimpleNamespace(nodeid=file)
        self.path = Path(file)
        self.name = name
        self.callspec = SimpleNamespace(params=parameters)


@pytest.fixture(autouse=True)
def in_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "ALL", False)


@pytest.mark.parametrize("count", [1, 3, 4, 10, 12])
@pytest.mark.parametrize("first", [0, 7, 739_000])
def test_turns_in_a_row_run_every_case_and_each_turn_runs_some(count: int, first: int) -> None:
    runs = [share(CASES, count, turn) for turn in range(first, first + count)]
    assert all(runs)
    assert {case for run in runs for case in run} == set(CASES)
    assert sum(map(len, runs[: len(CASES)])) == len(CASES)


def test_share_depends_only_on_the_turn_and_keeps_the_order() -> None:
    assert share(CASES, 3, 1) == share(CASES, 3, 4) == sorted(share(CASES[::-1], 3, 1))
    assert share(CASES, 3, 1) != share(CASES, 3, 2)


def test_all_shares_are_all_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "ALL", True)
    assert share(CASES, 3, 1) == CASES


def test_each_function_of_a_suite_runs_on_every_turn() -> None:
    items: list[Any] = [
        Item("tests/plugin/test_x.py", f"test_{function}[{ways}]")
        for function in "abc"
        for ways in ("plain", "xdist")
    ]
    first, second = chosen(items, 1), chosen(items, 2)
    assert first | second == set(items)
    assert (
        {item.name[:6] for item in first}
        == {item.name[:6] for item in second}
        == {"test_a", "test_b", "test_c"}
    )


def test_function_with_one_case_runs_on_every_turn() -> None:
    items: list[Any] = [
        Item("tests/integration/maintenance/test_x.py", f"test_{number}") for number in range(9)
    ]
    assert all(chosen(items, turn) == set(items) for turn in range(3))


def test_functions_of_faults_are_shared() -> None:
    items: list[Any] = [
        Item(f"tests/faults/test_{module}.py", f"test_{number}") for module in "xy" for number in range(9)
    ]
    runs = [chosen(items, turn) for turn in range(2)]
    assert set.union(*runs) == set(items)
    assert [len(run) for run in runs] == [9, 9]


def test_readme_examples_run_on_every_turn() -> None:
    function = "test_examples_of_a_page_work_in_order"
    pages = ["README.md", *(f"docs/{number}.md" for number in range(8))]
    items: list[Any] = [Item("tests/docs/test_examples.py", f"{function}[{page}]") for page in pages]
    for turn in range(4):
        names = {item.name for item in chosen(items, turn)}
        assert f"{function}[README.md]" in names
        assert len(names) == 3


def test_every_test_runs_on_the_newest_version_and_on_older_ones_within_some_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FRESHDB_TEST_POSTGRES", "18 16")
    items: list[Any] = [
        Item("tests/store/test_x.py", f"test_{number}[pg{major}]", postgres=major)
        for number in range(20)
        for major in wanted_majors()
    ]
    newest = {item for item in items if item.callspec.params["postgres"] == 18}
    runs = [chosen(items, turn) for turn in range(OLDER_VERSION.of)]
    assert all(newest < run for run in runs)
    assert set.union(*runs) == set(items)
    assert max(map(len, runs)) <= 23
