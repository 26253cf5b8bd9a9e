"""Statements over databases change the rows that they are meant for, and no others.

Each case breaks one condition of a statement. ``tests/mutants`` removes the conditions one by one, and needs these tests.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

import pytest

from freshdb_service.lifecycle import DatabaseState
from freshdb_service.store import databases
from freshdb_service.store.connection import Store
from freshdb_service.store.rows import DatabaseRow
from freshdb_service.store.worker_locks import LockedDatabase
from tests.integration.store.plane import SERVER, Plane

HOUR: Final = timedelta(hours=1)


def ago() -> datetime:
    return datetime.now(UTC) - HOUR


def later() -> datetime:
    return datetime.now(UTC) + HOUR


def value(plane: Plane, database: UUID, column: str) -> Any:  # noqa: ANN401 - a column of any type
    row = plane.row("databases", database)
    assert row is not None
    return row[column]


def read(plane: Plane, database: UUID) -> DatabaseRow:
    """The row as a caller has read it."""
    row = plane.row("databases", database)
    assert row is not None
    names = DatabaseRow.__dataclass_fields__
    return DatabaseRow(**{**{name: row[name] for name in names}, "state": DatabaseState(row["state"])})


# plan


async def plan(store: Store, pool: UUID, **limits: int) -> list[DatabaseRow]:
    given = {"wanted": 2, "enough": 10, "max_databases": 10, **limits}
    async with store.transaction() as connection:
        return await databases.plan(connection, pool, claim_seconds=60, **given)


async def test_planned_databases_are_creating_and_claimed(store: Store, plane: Plane) -> None:
    rows = await plan(store, plane.pool())
    assert len(rows) == 2
    for row in rows:
        assert (plane.state("databases", row.id), row.generation) == ("creating", 1)
        assert value(plane, row.id, "claimed_until") > datetime.now(UTC)


@pytest.mark.parametrize("state", ["building", "failed", "retired"])
async def test_nothing_is_planned_for_a_template_that_is_not_ready(
    store: Store, plane: Plane, state: str
) -> None:
    assert await plan(store, plane.pool(plane.template(state))) == []


async def test_nothing_is_planned_while_a_failed_database_is_there(store: Store, plane: Plane) -> None:
    pool = plane.pool()
    plane.database("failed", pool)
    assert await plan(store, pool) == []
    assert await plan(store, plane.pool()) != []


@pytest.mark.parametrize(
    "limits",
    [{"max_size": 3}, {"enough": 3}, {"max_databases": 3}, {"wanted": 1}],
    ids=lambda one: next(iter(one)),
)
async def test_no_limit_is_exceeded(store: Store, plane: Plane, limits: dict[str, int]) -> None:
    pool = plane.pool(max_size=limits.get("max_size", 50))
    for state in ("ready", "creating"):
        plane.database(state, pool)
    limits = {name: limit for name, limit in limits.items() if name != "max_size"}
    assert len(await plan(store, pool, **limits)) == 1


async def test_the_quota_of_the_templates_token_is_not_exceeded(store: Store, plane: Plane) -> None:
    token = plane.put(
        "tokens",
        {"name": "ci", "scopes": {}, "hint": "h", "digest": b"d", "max_databases": 1},
    )
    assert len(await plan(store, plane.pool(plane.template(token_id=token)))) == 1


# claim_dropping


async def claim_dropping(store: Store, most: int = 10, server: str = SERVER) -> list[UUID]:
    async with store.statement() as connection:
        rows = await databases.claim_dropping(
            connection, [server], most, claim_seconds=60, failed_seconds=1800
        )
    return [row.id for row in rows]


def to_drop(plane: Plane, state: str, template: str = "ready", **values: object) -> UUID:
    return plane.database(state, plane.pool(plane.template(template)), **values)


@pytest.mark.parametrize(
    ("state", "template", "values"),
    [
        ("dropping", "ready", {}),
        ("dropping", "ready", {"claimed_until": ago()}),
        ("dropping", "ready", {"not_before": ago()}),
        ("ready", "retired", {}),
        ("dirty", "retired", {}),
        ("failed", "ready", {"state_changed_at": ago()}),
        ("failed", "ready", {"not_before": ago()}),
    ],
)
async def test_an_unwanted_database_is_claimed_for_dropping(
    store: Store, plane: Plane, state: str, template: str, values: dict[str, object]
) -> None:
    unwanted = to_drop(plane, state, template, **values)
    assert await claim_dropping(store) == [unwanted]
    assert plane.state("databases", unwanted) == "dropping"
    assert value(plane, unwanted, "generation") == 6
    assert value(plane, unwanted, "password") is None
    assert value(plane, unwanted, "claimed_until") > datetime.now(UTC)


@pytest.mark.parametrize(
    ("state", "template", "values"),
    [
        ("dropping", "ready", {"claimed_until": later()}),
        ("dropping", "retired", {"claimed_until": later()}),
        ("dropping", "ready", {"claimed_until": later(), "state_changed_at": ago()}),
        ("dropping", "ready", {"not_before": later()}),
        ("ready", "ready", {"state_changed_at": ago()}),
        ("dirty", "ready", {"state_changed_at": ago()}),
        ("leased", "retired", {"state_changed_at": ago()}),
        ("kept", "retired", {"state_changed_at": ago()}),
        ("resetting", "retired", {"state_changed_at": ago()}),
        ("creating", "retired", {"state_changed_at": ago()}),
        ("failed", "ready", {}),
        ("failed", "retired", {}),
        ("failed", "ready", {"not_before": later(), "state_changed_at": ago()}),
    ],
)
async def test_no_other_database_is_claimed_for_dropping(
    store: Store, plane: Plane, state: str, template: str, values: dict[str, object]
) -> None:
    there = to_drop(plane, state, template, **values)
    before = plane.row("databases", there)
    assert await claim_dropping(store) == []
    assert plane.row("databases", there) == before


async def test_databases_of_other_servers_are_not_claimed_for_dropping(store: Store, plane: Plane) -> None:
    to_drop(plane, "dropping", server=plane.server("two"))
    assert await claim_dropping(store) == []


async def test_at_most_the_requested_number_is_claimed_for_dropping(store: Store, plane: Plane) -> None:
    for _ in range(3):
        to_drop(plane, "dropping")
    assert len(await claim_dropping(store, most=2)) == 2


# extend_claim, move, postpone, delete_row: a claim of one worker


async def extend(store: Store, row: DatabaseRow) -> bool:
    async with store.statement() as connection:
        return await databases.extend_claim(connection, row, 7200)


async def move(store: Store, row: DatabaseRow, state: DatabaseState = DatabaseState.DIRTY) -> bool:
    async with store.statement() as connection:
        return await databases.move(connection, row, state, error="why")


async def postpone(store: Store, row: DatabaseRow) -> bool:
    async with store.statement() as connection:
        return await databases.postpone(connection, row, 60)


async def delete_row(store: Store, row: DatabaseRow) -> bool:
    async with store.statement() as connection:
        return await databases.delete_row(connection, row)


@pytest.mark.parametrize("write", [extend, move, postpone, delete_row])
@pytest.mark.parametrize("lost", ["generation", "state", "id"])
async def test_a_worker_that_has_lost_its_claim_changes_nothing(
    store: Store,
    plane: Plane,
    write: Callable[[Store, DatabaseRow], Awaitable[bool]],
    lost: str,
) -> None:
    state = "ready" if write is move else "dropping" if write is delete_row else "resetting"
    claimed = plane.database(state, claimed_until=later())
    row = read(plane, claimed)
    if lost == "generation":
        plane.sql("update databases set generation = generation + 1")
    elif lost == "state":
        other = {"ready": "leased", "dropping": "creating", "resetting": "dirty"}[state]
        plane.sql("update databases set state = %s", other)
    else:
        row = DatabaseRow(
            **{**{name: getattr(row, name) for name in row.__dataclass_fields__}, "id": uuid4()}
        )
    before = plane.row("databases", claimed)
    assert not await write(store, row)
    assert plane.row("databases", claimed) == before


async def test_a_claim_is_extended(store: Store, plane: Plane) -> None:
    claimed = plane.database("resetting", claimed_until=ago())
    assert await extend(store, read(plane, claimed))
    assert value(plane, claimed, "claimed_until") > later()


@pytest.mark.parametrize(
    ("old", "new"),
    [("creating", "failed"), ("resetting", "failed"), ("resetting", "dirty"), ("ready", "dirty")],
)
async def test_a_database_is_moved_to_the_requested_state(
    store: Store, plane: Plane, old: str, new: str
) -> None:
    claimed = plane.database(old, claimed_until=later())
    assert await move(store, read(plane, claimed), DatabaseState(new))
    assert plane.state("databases", claimed) == new
    assert value(plane, claimed, "claimed_until") is None


async def test_a_postponed_database_is_free_but_not_before_its_time(store: Store, plane: Plane) -> None:
    claimed = plane.database("dropping", claimed_until=later())
    assert await postpone(store, read(plane, claimed))
    assert value(plane, claimed, "claimed_until") is None
    assert value(plane, claimed, "not_before") > datetime.now(UTC)
    assert await claim_dropping(store) == []


async def test_a_dropped_databases_row_is_deleted(store: Store, plane: Plane) -> None:
    dropped, other = plane.database("dropping"), plane.database("dropping")
    assert await delete_row(store, read(plane, dropped))
    assert plane.row("databases", dropped) is None
    assert plane.row("databases", other) is not None


# release_claims


async def release(store: Store, *gone: LockedDatabase) -> list[UUID]:
    async with store.statement() as connection:
        return [row.id for row in await databases.release_claims(connection, gone)]


@pytest.mark.parametrize("dead", ["overdue", "without its lock"])
@pytest.mark.parametrize(("state", "then"), [("creating", "dropping"), ("resetting", "dirty")])
async def test_the_database_of_a_dead_worker_is_released(
    store: Store, plane: Plane, dead: str, state: str, then: str
) -> None:
    claimed = plane.database(state, claimed_until=ago() if dead == "overdue" else later())
    gone = [] if dead == "overdue" else [LockedDatabase(claimed, 5)]
    assert await release(store, *gone) == [claimed]
    assert plane.state("databases", claimed) == then
    assert value(plane, claimed, "claimed_until") is None


async def test_a_dropping_database_without_its_lock_stays_dropping(store: Store, plane: Plane) -> None:
    claimed = plane.database("dropping", claimed_until=later())
    assert await release(store, LockedDatabase(claimed, 5)) == [claimed]
    assert plane.state("databases", claimed) == "dropping"
    assert value(plane, claimed, "claimed_until") is None


@pytest.mark.parametrize("state", ["active", "kept"])
async def test_a_live_lease_gets_its_database_back(store: Store, plane: Plane, state: str) -> None:
    claimed = plane.database("resetting", claimed_until=ago())
    held = plane.lease(state, claimed, generation=4)
    other = plane.lease("active", plane.database("leased"), generation=3)
    assert await release(store) == [claimed]
    assert plane.state("databases", claimed) == "leased"
    assert value(plane, claimed, "lease_id") == held
    assert (plane.row("leases", held) or {})["generation"] == 5
    assert (plane.row("leases", other) or {})["generation"] == 3


@pytest.mark.parametrize("state", ["released", "expired", "revoked"])
async def test_a_lease_that_has_ended_does_not_get_its_database_back(
    store: Store, plane: Plane, state: str
) -> None:
    claimed = plane.database("resetting", claimed_until=ago())
    ended = plane.lease(state, claimed, generation=4)
    plane.lease("active", plane.database("leased"))
    assert await release(store) == [claimed]
    assert plane.state("databases", claimed) == "dirty"
    assert (plane.row("leases", ended) or {})["generation"] == 4


@pytest.mark.parametrize(
    ("state", "claimed_until", "generation"),
    [
        ("creating", later(), None),
        ("resetting", later(), None),
        ("dropping", ago(), None),
        ("ready", ago(), None),
        ("resetting", later(), 4),
        ("dropping", later(), 4),
        ("dropping", None, 5),
        ("ready", later(), 5),
        ("dirty", later(), 5),
        ("failed", later(), 5),
    ],
)
async def test_no_other_database_is_released(
    store: Store, plane: Plane, state: str, claimed_until: datetime | None, generation: int | None
) -> None:
    there = plane.database(state, claimed_until=claimed_until, not_before=later())
    before = plane.row("databases", there)
    gone = [] if generation is None else [LockedDatabase(there, generation)]
    assert await release(store, *gone) == []
    assert plane.row("databases", there) == before


# shrink


async def shrink(store: Store, pool: UUID, surplus: int = 1) -> int:
    async with store.statement() as connection:
        return await databases.shrink(connection, pool, surplus, idle_seconds=60)


async def test_a_pool_shrinks_by_its_longest_ready_databases(store: Store, plane: Plane) -> None:
    pool = plane.pool()
    old = plane.database("ready", pool, state_changed_at=ago())
    older = plane.database("ready", pool, state_changed_at=ago() - HOUR)
    used = [plane.database(state, pool, state_changed_at=ago() - 2 * HOUR) for state in ("dirty", "leased")]
    assert await shrink(store, pool) == 1
    assert plane.state("databases", older) == "dropping"
    assert plane.state("databases", old) == "ready"
    assert [plane.state("databases", one) for one in used] == ["dirty", "leased"]


async def test_a_database_of_another_pool_or_in_use_lately_stays(store: Store, plane: Plane) -> None:
    pool = plane.pool()
    fresh, other = plane.database("ready", pool), plane.database("ready", state_changed_at=ago())
    assert await shrink(store, pool, surplus=5) == 0
    assert [plane.state("databases", one) for one in (fresh, other)] == ["ready", "ready"]


# recover_strays


async def recover(store: Store) -> int:
    async with store.statement() as connection:
        return await databases.recover_strays(connection)


@pytest.mark.parametrize("state", ["leased", "kept"])
@pytest.mark.parametrize("lease", ["none", "unknown", "released", "expired", "revoked"])
async def test_a_database_whose_lease_is_not_live_becomes_dirty(
    store: Store, plane: Plane, state: str, lease: str
) -> None:
    stray = plane.database(state, lease_id=uuid4() if lease == "unknown" else None)
    if lease not in {"none", "unknown"}:
        plane.lease(lease, stray)
    plane.lease("active", plane.database("leased"))
    assert await recover(store) == 1
    assert plane.state("databases", stray) == "dirty"
    assert value(plane, stray, "lease_id") is None


@pytest.mark.parametrize("lease", ["active", "kept"])
@pytest.mark.parametrize("state", ["leased", "kept"])
async def test_a_database_of_a_live_lease_is_no_stray(
    store: Store, plane: Plane, state: str, lease: str
) -> None:
    held = plane.database(state)
    plane.lease(lease, held)
    assert await recover(store) == 0
    assert plane.state("databases", held) == state


@pytest.mark.parametrize("state", ["creating", "ready", "dirty", "resetting", "failed", "dropping"])
async def test_a_database_without_a_lease_is_no_stray(store: Store, plane: Plane, state: str) -> None:
    there = plane.database(state)
    before = plane.row("databases", there)
    assert await recover(store) == 0
    assert plane.row("databases", there) == before
