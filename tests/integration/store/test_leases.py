"""Statements over leases: each case breaks one condition of a statement."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from freshdb_service.lifecycle import DatabaseState, LeaseState
from freshdb_service.store import leases, pools
from freshdb_service.store.audit_log import Actor
from freshdb_service.store.connection import Store
from freshdb_service.store.leases import EndedLease, ResetClaim
from freshdb_service.store.rows import LeaseRow
from tests.integration.store.plane import PRINCIPAL, SERVER, Plane

CLAIM = ResetClaim(60, [SERVER])
ENDED = (LeaseState.RELEASED, LeaseState.EXPIRED, LeaseState.REVOKED)
LONG_AGO = datetime.now(UTC) - timedelta(days=2)


async def end(
    store: Store,
    lease: UUID,
    state: LeaseState = LeaseState.RELEASED,
    *,
    principal: str | None = PRINCIPAL,
    claim: ResetClaim | None = CLAIM,
) -> EndedLease | None:
    return await leases.end(store, lease, state, principal=principal, claim=claim)


def database_of(plane: Plane, database: UUID) -> tuple[object, ...]:
    row = plane.row("databases", database)
    assert row is not None
    return row["state"], row["generation"], row["lease_id"]


# end


@pytest.mark.parametrize("state", ENDED)
@pytest.mark.parametrize("principal", [PRINCIPAL, None])
async def test_a_lease_ends_and_its_database_is_claimed_for_a_reset(
    store: Store, plane: Plane, state: LeaseState, principal: str | None
) -> None:
    held, other = plane.database("leased"), plane.database("leased")
    lease, untouched = plane.lease("active", held), plane.lease("active", other)
    ended = await end(store, lease, state, principal=principal)
    assert ended is not None
    assert ended.used is not None
    assert (ended.lease.state, ended.used.row.generation) == (state, 6)
    assert plane.state("leases", lease) == state
    assert (plane.row("leases", lease) or {})["ended_at"] is not None
    assert database_of(plane, held) == ("resetting", 6, None)
    assert (plane.row("databases", held) or {})["claimed_until"] > datetime.now(UTC)
    assert plane.state("leases", untouched) == "active"
    assert database_of(plane, other) == ("leased", 5, untouched)


@pytest.mark.parametrize("lacking", ["claim", "ready template", "server", "leased"])
async def test_the_database_of_an_ended_lease_becomes_dirty_without(
    store: Store, plane: Plane, lacking: str
) -> None:
    pool = plane.pool(plane.template("retired" if lacking == "ready template" else "ready"))
    held = plane.database("kept" if lacking == "leased" else "leased", pool)
    lease = plane.lease(
        "kept" if lacking == "leased" else "active",
        held,
        server=plane.server("two" if lacking == "server" else SERVER),
    )
    ended = await end(store, lease, claim=None if lacking == "claim" else CLAIM)
    assert ended is not None
    assert ended.used is None
    assert plane.state("leases", lease) == "released"
    assert database_of(plane, held) == ("dirty", 5, None)
    assert (plane.row("databases", held) or {})["claimed_until"] is None


@pytest.mark.parametrize("state", ENDED)
async def test_a_lease_that_has_ended_does_not_end_again(
    store: Store, plane: Plane, state: LeaseState
) -> None:
    held = plane.database("leased")
    lease = plane.lease(state, held)
    before = plane.row("leases", lease)
    for new in ENDED:
        assert await end(store, lease, new) is None
    assert plane.row("leases", lease) == before
    assert database_of(plane, held) == ("leased", 5, lease)


async def test_the_lease_of_another_principal_does_not_end(store: Store, plane: Plane) -> None:
    held = plane.database("leased")
    lease = plane.lease("active", held)
    assert await end(store, lease, principal="other") is None
    assert plane.state("leases", lease) == "active"
    assert database_of(plane, held) == ("leased", 5, lease)


@pytest.mark.parametrize("differs", ["id", "generation", "lease_id"])
async def test_a_database_of_another_lease_or_generation_is_left_alone(
    store: Store, plane: Plane, differs: str
) -> None:
    held = plane.database("leased")
    lease = plane.lease("active", held)
    if differs == "id":
        plane.sql("update leases set database_id = %s", uuid4())
    elif differs == "generation":
        plane.sql("update databases set generation = 7")
    else:
        plane.sql("update databases set lease_id = %s", uuid4())
    before = plane.row("databases", held)
    ended = await end(store, lease)
    assert ended is not None
    assert ended.used is None
    assert plane.state("leases", lease) == "released"
    assert plane.row("databases", held) == before


@pytest.mark.parametrize(
    "state", [state for state in DatabaseState if state not in {DatabaseState.LEASED, DatabaseState.KEPT}]
)
async def test_a_database_that_is_neither_leased_nor_kept_is_left_alone(
    store: Store, plane: Plane, state: DatabaseState
) -> None:
    there = plane.database(state)
    lease = plane.lease("active", there)
    before = plane.row("databases", there)
    for claim in (CLAIM, None):
        plane.sql("update leases set state = 'active'")
        assert await end(store, lease, claim=claim) is not None
        assert plane.row("databases", there) == before


# keep


async def keep(store: Store, lease: UUID, principal: str = PRINCIPAL) -> LeaseRow | None:
    async with store.transaction() as connection:
        return await leases.keep(connection, lease, by=Actor(principal, None), ttl_seconds=600, reason="why")


@pytest.mark.parametrize("state", ["active", "kept"])
async def test_a_live_lease_is_kept_with_its_database(store: Store, plane: Plane, state: str) -> None:
    held, other = plane.database("leased" if state == "active" else "kept"), plane.database("leased")
    lease, untouched = plane.lease(state, held), plane.lease("active", other)
    kept = await keep(store, lease)
    assert kept is not None
    assert kept.id == lease
    assert [plane.state("leases", lease), database_of(plane, held)] == ["kept", ("kept", 5, lease)]
    assert [plane.state("leases", untouched), plane.state("databases", other)] == ["active", "leased"]


@pytest.mark.parametrize("state", ENDED)
async def test_a_lease_that_has_ended_is_not_kept(store: Store, plane: Plane, state: LeaseState) -> None:
    held = plane.database("leased")
    lease = plane.lease(state, held)
    assert await keep(store, lease) is None
    assert [plane.state("leases", lease), plane.state("databases", held)] == [state, "leased"]


async def test_the_lease_of_another_principal_is_not_kept(store: Store, plane: Plane) -> None:
    held = plane.database("leased")
    lease = plane.lease("active", held)
    assert await keep(store, lease, "other") is None
    assert [plane.state("leases", lease), plane.state("databases", held)] == ["active", "leased"]


@pytest.mark.parametrize("differs", ["id", "generation", "lease_id", "state"])
async def test_a_lease_without_its_database_is_not_kept(store: Store, plane: Plane, differs: str) -> None:
    held = plane.database("leased")
    lease = plane.lease("active", held)
    if differs == "id":
        plane.sql("update leases set database_id = %s", uuid4())
    elif differs == "generation":
        plane.sql("update databases set generation = 7")
    elif differs == "lease_id":
        plane.sql("update databases set lease_id = %s", uuid4())
    else:
        plane.sql("update databases set state = 'resetting'")
    before = plane.row("databases", held)
    assert await keep(store, lease) is None
    assert plane.state("leases", lease) == "active"
    assert plane.row("databases", held) == before


# extend_ttl, prune


async def test_only_the_ttl_of_this_live_lease_is_extended(store: Store, plane: Plane) -> None:
    found = {state: plane.lease(state) for state in LeaseState}
    other = plane.lease("active")
    async with store.statement() as connection:
        for lease in found.values():
            await leases.extend_ttl(connection, lease, 3600)
    extended = {
        state for state, lease in found.items() if (plane.row("leases", lease) or {})["ttl_seconds"] == 3600
    }
    assert extended == {LeaseState.ACTIVE, LeaseState.KEPT}
    assert (plane.row("leases", other) or {})["ttl_seconds"] == 60


async def test_only_leases_that_ended_long_ago_are_deleted(store: Store, plane: Plane) -> None:
    old = {state: plane.lease(state, ended_at=LONG_AGO, granted_at=LONG_AGO) for state in ENDED}
    stay = [plane.lease("active", granted_at=LONG_AGO), plane.lease("kept", granted_at=LONG_AGO)]
    stay += [plane.lease("released", ended_at=datetime.now(UTC), granted_at=LONG_AGO), plane.lease("active")]
    async with store.statement() as connection:
        assert await leases.prune(connection, 86_400) == len(old)
    assert [plane.row("leases", lease) for lease in old.values()] == [None] * 3
    assert None not in [plane.row("leases", lease) for lease in stay]


async def test_only_the_used_templates_are_touched(store: Store, plane: Plane) -> None:
    in_pool, other = (plane.template(last_used_at=LONG_AGO) for _ in range(2))
    pool = plane.pool(in_pool)
    async with store.statement() as connection:
        await pools.note_acquired(connection, [pool])
    touched = [(plane.row("templates", one) or {})["last_used_at"] > LONG_AGO for one in (in_pool, other)]
    assert touched == [True, False]
