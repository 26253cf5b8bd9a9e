"""The triggers of the control plane allow exactly the transitions that ``lifecycle`` declares."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import text

from freshdb_service import lifecycle
from freshdb_service.lifecycle import DatabaseState, IllegalTransition, LeaseState, TemplateState
from freshdb_service.store import databases
from freshdb_service.store.connection import Store
from freshdb_service.store.rows import DatabaseRow
from tests.integration.store.plane import Plane

S = TypeVar("S", bound=StrEnum)
SQLSTATE = "LC001"
UUID_PATTERN = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


@dataclass(frozen=True)
class Machine:
    """The declaration of one table in ``lifecycle``."""

    entry: frozenset[str]
    transitions: Mapping[str, frozenset[str]]
    exits: frozenset[str]

    def pairs(self) -> set[tuple[str | None, str | None]]:
        """Every legal transition. ``None`` stands for a row that does not exist."""
        changes = {(old, new) for old, news in self.transitions.items() for new in news}
        return changes | {(None, new) for new in self.entry} | {(old, None) for old in self.exits}


def declared(entry: frozenset[S], transitions: Mapping[S, frozenset[S]], exits: frozenset[S]) -> Machine:
    return Machine(
        frozenset(map(str, entry)),
        {str(old): frozenset(map(str, news)) for old, news in transitions.items()},
        frozenset(map(str, exits)),
    )


MACHINES = {
    "databases": declared(lifecycle.DATABASE_ENTRY, lifecycle.DATABASE_TRANSITIONS, lifecycle.DATABASE_EXIT),
    "leases": declared(lifecycle.LEASE_ENTRY, lifecycle.LEASE_TRANSITIONS, lifecycle.LEASE_EXIT),
    "templates": declared(lifecycle.TEMPLATE_ENTRY, lifecycle.TEMPLATE_TRANSITIONS, lifecycle.TEMPLATE_EXIT),
}
STATES = {"databases": DatabaseState, "leases": LeaseState, "templates": TemplateState}


def put(plane: Plane, table: str, state: str) -> UUID:
    if table == "databases":
        return plane.database(state)
    return plane.lease(state) if table == "leases" else plane.template(state)


def attempt(plane: Plane, table: str, old: str | None, new: str | None) -> str:
    """Try one transition. Return the message of the refusal, or nothing."""
    there = put(plane, table, old or new or "")
    values = plane.row(table, there)
    assert values is not None
    try:
        if old is None:
            plane.sql(f"delete from {table} where id = %s", there)
            plane.insert(table, values)
        elif new is None:
            plane.connection.execute(f"delete from {table} where id = '{there}'")
        else:
            plane.connection.execute(f"update {table} set state = '{new}' where id = '{there}'")
    except psycopg.Error as error:
        return f"{error.sqlstate} {error}"
    assert plane.state(table, there) == new
    return ""


@pytest.mark.parametrize("table", MACHINES)
def test_the_triggers_allow_exactly_the_declared_transitions(plane: Plane, table: str) -> None:
    machine = MACHINES[table]
    rows = [None, *map(str, STATES[table])]
    tried = {(old, new) for old in rows for new in rows if old != new}
    allowed = {(old, new) for old, new in tried if not attempt(plane, table, old, new)}
    assert allowed == machine.pairs()


@pytest.mark.parametrize("table", MACHINES)
def test_an_update_that_keeps_the_state_is_allowed(plane: Plane, table: str) -> None:
    for state in STATES[table]:
        assert not attempt(plane, table, state, state)


@pytest.mark.parametrize("table", MACHINES)
def test_a_refusal_names_table_row_states_and_the_legal_ones(plane: Plane, table: str) -> None:
    machine = MACHINES[table]
    rows = [None, *map(str, STATES[table])]
    for old in rows:
        for new in rows:
            if old == new or not (message := attempt(plane, table, old, new)):
                continue
            said, _, legal = message.splitlines()[0].rstrip(")").partition(" (legal: ")
            assert re.match(f"{SQLSTATE} {table} {UUID_PATTERN}: ", said)
            if old is None:
                assert said.endswith(f": insert in state {new} is illegal")
                assert set(legal.split(", ")) == machine.entry
            elif new is None:
                assert said.endswith(f": delete in state {old} is illegal")
                assert set(legal.split(", ")) == machine.exits
            else:
                assert said.endswith(f": transition from {old} to {new} is illegal")
                assert set(legal.split(", ")) == (machine.transitions[old] or {"none"})


async def test_a_refusal_is_an_illegal_transition_on_every_kind_of_connection(
    store: Store, plane: Plane
) -> None:
    held = plane.database("leased")
    message = (
        f"^databases {held}: transition from leased to ready is illegal \\(legal: dirty, kept, resetting\\)$"
    )
    statement = "update databases set state = 'ready'"
    with pytest.raises(IllegalTransition, match=message):
        async with store.driver() as driver:
            await driver.execute(statement)
    for kind in (store.statement, store.transaction):
        with pytest.raises(IllegalTransition, match=message):
            async with kind() as connection:
                await connection.execute(text(statement))
    assert plane.state("databases", held) == "leased"


async def test_an_illegal_transition_of_the_program_is_refused(store: Store, plane: Plane) -> None:
    pool = plane.pool()
    failed = plane.database("failed", pool)
    row = DatabaseRow(failed, pool, "one", DatabaseState.FAILED, 5, "d", None, "l", None, None, None)
    with pytest.raises(IllegalTransition, match="from failed to ready"):
        async with store.statement() as connection:
            await databases.move(connection, row, DatabaseState.READY)


@pytest.mark.parametrize("table", MACHINES)
def test_an_unknown_state_is_refused(plane: Plane, table: str) -> None:
    there = put(plane, table, next(iter(STATES[table])))
    for unknown in ("'gone'", "null"):
        with pytest.raises(psycopg.Error, match="is illegal"):
            plane.connection.execute(f"update {table} set state = {unknown} where id = '{there}'")
    with pytest.raises(psycopg.Error, match="insert in state gone is illegal"):
        plane.insert(table, {**(plane.row(table, there) or {}), "id": uuid4(), "state": "gone"})
