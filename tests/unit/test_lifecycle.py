from __future__ import annotations

import ast
import inspect
from enum import StrEnum

import pytest

from freshdb_service import lifecycle
from freshdb_service.lifecycle import (
    DATABASE_TRANSITIONS,
    LEASE_LIVE,
    LEASE_TRANSITIONS,
    TEMPLATE_TRANSITIONS,
    DatabaseState,
    IllegalTransition,
    LeaseState,
    TemplateState,
    check_database,
    check_lease,
    check_template,
)


@pytest.mark.parametrize(
    ("states", "table"),
    [
        (DatabaseState, DATABASE_TRANSITIONS),
        (LeaseState, LEASE_TRANSITIONS),
        (TemplateState, TEMPLATE_TRANSITIONS),
    ],
)
def test_every_state_has_its_row_in_the_table(
    states: type[StrEnum], table: dict[StrEnum, frozenset[StrEnum]]
) -> None:
    assert set(table) == set(states)


def test_every_state_of_a_database_is_reached_from_creating_and_leads_to_its_end() -> None:
    reached = {DatabaseState.CREATING}
    while more := {new for old in reached for new in DATABASE_TRANSITIONS[old]} - reached:
        reached |= more
    assert reached == set(DatabaseState)
    ends = {DatabaseState.DROPPING}
    while more := {old for old, news in DATABASE_TRANSITIONS.items() if news & ends} - ends:
        ends |= more
    assert ends == set(DatabaseState)


def test_a_database_is_never_handed_out_without_having_been_made_clean() -> None:
    into_leased = {old for old, news in DATABASE_TRANSITIONS.items() if DatabaseState.LEASED in news}
    assert into_leased == {DatabaseState.READY, DatabaseState.RESETTING}
    into_ready = {old for old, news in DATABASE_TRANSITIONS.items() if DatabaseState.READY in news}
    assert into_ready == {DatabaseState.CREATING, DatabaseState.RESETTING}


def test_a_lease_that_is_over_stays_over() -> None:
    for state in set(LeaseState) - LEASE_LIVE:
        assert not LEASE_TRANSITIONS[state]


def test_an_illegal_transition_names_both_states_and_what_is_allowed() -> None:
    with pytest.raises(IllegalTransition, match="from leased to ready") as caught:
        check_database(DatabaseState.LEASED, DatabaseState.READY)
    assert "dirty, kept" in str(caught.value)
    with pytest.raises(IllegalTransition, match="it is final"):
        check_lease(LeaseState.EXPIRED, LeaseState.ACTIVE)
    with pytest.raises(IllegalTransition):
        check_template(TemplateState.RETIRED, TemplateState.READY)


def test_the_state_machine_imports_the_standard_library_alone() -> None:
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
