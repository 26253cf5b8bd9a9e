"""Claims for a reset, and their return: each case breaks one condition of a statement."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from freshdb_service.lifecycle import DatabaseState
from freshdb_service.store import reset_claims
from freshdb_service.store.connection import Store
from freshdb_service.store.reset_claims import ClaimedReset, ResetResult
from freshdb_service.store.rows import DatabaseRow
from tests.integration.store.plane import PRINCIPAL, SERVER, Plane

LATER = datetime.now(UTC) + timedelta(hours=1)
CLEAN = ResetResult("d2", None, "l2", "p2")


def row_of(plane: Plane, database: UUID, **changed: object) -> DatabaseRow:
    """The row as a worker has read it."""
    row = plane.row("databases", database)
    assert row is not None
    values = {name: row[name] for name in DatabaseRow.__dataclass_fields__}
    return DatabaseRow(**{**values, "state": DatabaseState(row["state"]), **changed})


def assert_claimed(plane: Plane, database: UUID, found: ClaimedReset | None) -> None:
    assert found is not None
    row = plane.row("databases", database)
    assert row is not None
    assert (found.row.id, found.row.generation, found.row.state) == (database, 6, "resetting")
    assert (row["state"], row["generation"], row["password"]) == ("resetting", 6, None)
    assert row["claimed_until"] > datetime.now(UTC)


# claim_dirty


async def claim_dirty(store: Store, most: int = 10) -> list[ClaimedReset]:
    return await reset_claims.claim_dirty(store, [SERVER], most, claim_seconds=60)


async def test_a_dirty_database_is_claimed(store: Store, plane: Plane) -> None:
    dirty = plane.database("dirty", not_before=datetime.now(UTC) - timedelta(hours=1))
    [found] = await claim_dirty(store)
    assert_claimed(plane, dirty, found)


@pytest.mark.parametrize("state", [state for state in DatabaseState if state != "dirty"])
async def test_a_database_that_is_not_dirty_is_not_claimed(
    store: Store, plane: Plane, state: DatabaseState
) -> None:
    there = plane.database(state)
    before = plane.row("databases", there)
    assert await claim_dirty(store) == []
    assert plane.row("databases", there) == before


@pytest.mark.parametrize("lacking", ["ready template", "server", "time"])
async def test_a_dirty_database_is_not_claimed_without(store: Store, plane: Plane, lacking: str) -> None:
    there = plane.database(
        "dirty",
        plane.pool(plane.template("retired" if lacking == "ready template" else "ready")),
        server=plane.server("two" if lacking == "server" else SERVER),
        not_before=LATER if lacking == "time" else None,
    )
    before = plane.row("databases", there)
    assert await claim_dirty(store) == []
    assert plane.row("databases", there) == before


async def test_at_most_the_requested_number_is_claimed(store: Store, plane: Plane) -> None:
    for _ in range(3):
        plane.database("dirty")
    assert len(await claim_dirty(store, most=2)) == 2


# claim_leased


async def claim_leased(store: Store, lease: UUID, principal: str = PRINCIPAL) -> ClaimedReset | None:
    return await reset_claims.claim_leased(store, lease, principal, claim_seconds=60)


async def test_the_database_of_an_active_lease_is_claimed_and_keeps_its_lease(
    store: Store, plane: Plane
) -> None:
    leased, other = plane.database("leased"), plane.database("leased")
    lease = plane.lease("active", leased)
    plane.lease("active", other)
    assert_claimed(plane, leased, await claim_leased(store, lease))
    assert (plane.row("databases", leased) or {})["lease_id"] == lease
    assert plane.state("databases", other) == "leased"


@pytest.mark.parametrize("state", ["kept", "released", "expired", "revoked"])
async def test_the_database_of_a_lease_that_is_not_active_is_not_claimed(
    store: Store, plane: Plane, state: str
) -> None:
    leased = plane.database("leased")
    assert await claim_leased(store, plane.lease(state, leased)) is None
    assert plane.state("databases", leased) == "leased"


async def test_the_database_of_another_principal_is_not_claimed(store: Store, plane: Plane) -> None:
    leased = plane.database("leased")
    assert await claim_leased(store, plane.lease("active", leased), "other") is None
    assert plane.state("databases", leased) == "leased"


@pytest.mark.parametrize("state", [state for state in DatabaseState if state != "leased"])
async def test_a_database_that_is_not_leased_is_not_claimed_for_its_lease(
    store: Store, plane: Plane, state: DatabaseState
) -> None:
    there = plane.database(state)
    lease = plane.lease("active", there)
    before = plane.row("databases", there)
    assert await claim_leased(store, lease) is None
    assert plane.row("databases", there) == before


async def test_a_database_that_names_another_lease_is_not_claimed(store: Store, plane: Plane) -> None:
    mine = plane.database("leased")
    lease = plane.lease("active", mine)
    other = plane.database("leased", lease_id=lease)
    plane.sql("update databases set lease_id = %s where id = %s", uuid4(), mine)
    assert await claim_leased(store, lease) is None
    assert [plane.state("databases", one) for one in (mine, other)] == ["leased", "leased"]


@pytest.mark.parametrize("state", ["active", "kept"])
@pytest.mark.parametrize("clean", [CLEAN, None], ids=["clean", "failed"])
async def test_a_live_lease_gets_its_database_back(
    store: Store, plane: Plane, state: str, clean: ResetResult | None
) -> None:
    claimed = plane.database("resetting", claimed_until=LATER)
    lease = plane.lease(state, claimed, generation=4)
    other = plane.lease("active", plane.database("leased"), generation=3)
    assert await reset_claims.return_claim(store, row_of(plane, claimed), clean)
    row = plane.row("databases", claimed)
    assert row is not None
    assert (row["state"], row["lease_id"], row["claimed_until"]) == ("leased", lease, None)
    assert (plane.row("leases", lease) or {})["generation"] == 5
    assert (plane.row("leases", other) or {})["generation"] == 3


@pytest.mark.parametrize("state", ["released", "expired", "revoked"])
@pytest.mark.parametrize(("clean", "then"), [(CLEAN, "ready"), (None, "dirty")], ids=["clean", "failed"])
async def test_a_lease_that_has_ended_does_not_get_its_database_back(
    store: Store, plane: Plane, state: str, clean: ResetResult | None, then: str
) -> None:
    claimed = plane.database("resetting", claimed_until=LATER)
    lease = plane.lease(state, claimed, generation=4)
    plane.lease("active", plane.database("leased"))
    assert not await reset_claims.return_claim(store, row_of(plane, claimed), clean)
    row = plane.row("databases", claimed)
    assert row is not None
    assert (row["state"], row["lease_id"], row["claimed_until"]) == (then, None, None)
    assert (plane.row("leases", lease) or {})["generation"] == 4


@pytest.mark.parametrize("lost", ["id", "generation"])
async def test_a_claim_that_was_lost_is_not_returned(store: Store, plane: Plane, lost: str) -> None:
    claimed = plane.database("resetting", claimed_until=LATER)
    plane.lease("active", claimed)
    row = row_of(plane, claimed, **{lost: uuid4() if lost == "id" else 4})
    before = plane.row("databases", claimed)
    assert not await reset_claims.return_claim(store, row, CLEAN)
    assert plane.row("databases", claimed) == before


@pytest.mark.parametrize("state", [state for state in DatabaseState if state != "resetting"])
async def test_a_claim_on_a_database_that_is_not_being_reset_is_not_returned(
    store: Store, plane: Plane, state: DatabaseState
) -> None:
    there = plane.database(state)
    plane.lease("active", there)
    before = plane.row("databases", there)
    assert not await reset_claims.return_claim(store, row_of(plane, there), CLEAN)
    assert plane.row("databases", there) == before


# make_ready


@pytest.mark.parametrize("state", ["creating", "resetting"])
async def test_a_clean_database_becomes_ready_with_its_next_login(
    store: Store, plane: Plane, state: str
) -> None:
    claimed, other = plane.database(state, claimed_until=LATER), plane.database(state)
    assert await reset_claims.make_ready(store, row_of(plane, claimed), CLEAN)
    row = plane.row("databases", claimed)
    assert row is not None
    assert (row["state"], row["claimed_until"], row["login"], row["password"]) == ("ready", None, "l2", "p2")
    assert plane.state("databases", other) == state


@pytest.mark.parametrize("lost", ["id", "generation", "state"])
async def test_a_worker_that_has_lost_its_claim_makes_nothing_ready(
    store: Store, plane: Plane, lost: str
) -> None:
    claimed = plane.database("resetting", claimed_until=LATER)
    changed: dict[str, dict[str, object]] = {"id": {"id": uuid4()}, "generation": {"generation": 4}}
    row = row_of(plane, claimed, **changed.get(lost, {}))
    if lost == "state":
        plane.sql("update databases set state = 'creating'")
    before = plane.row("databases", claimed)
    assert not await reset_claims.make_ready(store, row, CLEAN)
    assert plane.row("databases", claimed) == before
