from __future__ import annotations

import ast
import inspect
from enum import StrEnum

import pytest

from freshdb_service import lifecycle
from freshdb_service.lifecycle import (
    DATABASE_CLAIMED,
    DATABASE_ENTRY,
    DATABASE_EXIT,
    DATABASE_TRANSITIONS,
    LEASE_ENTRY,
    LEASE_EXIT,
    LEASE_LIVE,
    LEASE_TRANSITIONS,
    TEMPLATE_ENTRY,
    TEMPLATE_EXIT,
    TEMPLATE_TRANSITIONS,
    DatabaseState,
    LeaseState,
    TemplateState,
)

DATABASE = """
new > creating
creating > ready
creating > failed
creating > dropping
ready > leased
ready > dirty
ready > dropping
leased > dirty
leased > kept
leased > resetting
kept > dirty
dirty > resetting
dirty > dropping
resetting > ready
resetting > leased
resetting > dirty
resetting > failed
failed > dropping
dropping > deleted
"""

LEASE = """
new > active
active > kept
active > released
active > expired
active > revoked
kept > released
kept > expired
kept > revoked
released > deleted
expired > deleted
revoked > deleted
"""

TEMPLATE = """
new > building
building > ready
building > failed
ready > retired
failed > building
failed > retired
retired > deleted
"""


@pytest.mark.parametrize(
    ("edges", "entry", "table", "exits"),
    [
        (DATABASE, DATABASE_ENTRY, DATABASE_TRANSITIONS, DATABASE_EXIT),
        (LEASE, LEASE_ENTRY, LEASE_TRANSITIONS, LEASE_EXIT),
        (TEMPLATE, TEMPLATE_ENTRY, TEMPLATE_TRANSITIONS, TEMPLATE_EXIT),
    ],
    ids=["database", "lease", "template"],
)
def test_transitions_equal_the_listed_ones(
    edges: str,
    entry: frozenset[StrEnum],
    table: dict[StrEnum, frozenset[StrEnum]],
    exits: frozenset[StrEnum],
) -> None:
    declared = [f"new > {state}" for state in entry]
    declared += [f"{old} > {new}" for old, news in table.items() for new in news]
    declared += [f"{state} > deleted" for state in exits]
    assert sorted(declared) == sorted(edges.split("\n")[1:-1])


@pytest.mark.parametrize(
    ("states", "entry", "table", "exits"),
    [
        (DatabaseState, DATABASE_ENTRY, DATABASE_TRANSITIONS, DATABASE_EXIT),
        (LeaseState, LEASE_ENTRY, LEASE_TRANSITIONS, LEASE_EXIT),
        (TemplateState, TEMPLATE_ENTRY, TEMPLATE_TRANSITIONS, TEMPLATE_EXIT),
    ],
    ids=["database", "lease", "template"],
)
def test_every_state_can_be_reached_and_leads_to_a_deleted_row(
    states: type[StrEnum],
    entry: frozenset[StrEnum],
    table: dict[StrEnum, frozenset[StrEnum]],
    exits: frozenset[StrEnum],
) -> None:
    assert set(table) == set(states)
    reached = set(entry)
    while more := {new for old in reached for new in table[old]} - reached:
        reached |= more
    assert reached == set(states)
    ends = set(exits)
    while more := {old for old, news in table.items() if news & ends} - ends:
        ends |= more
    assert ends == set(states)


def test_used_database_is_not_leased_before_its_reset() -> None:
    into_leased = {old for old, news in DATABASE_TRANSITIONS.items() if DatabaseState.LEASED in news}
    assert into_leased == {DatabaseState.READY, DatabaseState.RESETTING}
    into_ready = {old for old, news in DATABASE_TRANSITIONS.items() if DatabaseState.READY in news}
    assert into_ready == {DatabaseState.CREATING, DatabaseState.RESETTING}
    assert into_ready < DATABASE_CLAIMED


def test_ended_lease_does_not_change() -> None:
    assert set(LeaseState) - LEASE_LIVE == LEASE_EXIT
    for state in LEASE_EXIT:
        assert not LEASE_TRANSITIONS[state]


def test_lifecycle_imports_only_the_standard_library() -> None:
    tree = ast.parse(inspect.getsource(lifecycle))
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported == {"__future__", "enum", "typing"}
