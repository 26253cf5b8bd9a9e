"""The grant: each case breaks one of its conditions, and nothing is granted."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID, uuid4

import pytest

from freshdb_service.lifecycle import DatabaseState
from freshdb_service.store import grant
from freshdb_service.store.connection import Store
from freshdb_service.store.grant import GrantShare, GrantTerms, OutOfDate, OverQuota, TokenEnded
from freshdb_service.store.rows import LeaseRow
from tests.integration.store.plane import PRINCIPAL, Plane

TERMS: Final = GrantTerms(PRINCIPAL, 600)
EARLIER: Final = datetime.now(UTC) - timedelta(hours=1)


async def granted(
    store: Store, pool: UUID, wanted: int = 1, *, pinned: bool = False, token: UUID | None = None
) -> list[LeaseRow] | None:
    terms = replace(TERMS, token_id=token)
    share = GrantShare(pool, tuple(uuid4() for _ in range(wanted)), pinned, 0, 60)
    return await grant.grant(store, terms, [share])


def token(plane: Plane, **values: object) -> UUID:
    return plane.put("tokens", {"name": PRINCIPAL, "scopes": {}, "hint": "h", "digest": b"d", **values})


def leases_there(plane: Plane) -> int:
    row = plane.connection.execute("select count(*) from leases").fetchone()
    assert row is not None
    return int(row[0])


async def test_ready_databases_are_leased_the_last_ready_first(store: Store, plane: Plane) -> None:
    pool = plane.pool()
    old = plane.database("ready", pool, state_changed_at=EARLIER)
    fresh, fresher = plane.database("ready", pool), plane.database("ready", pool)
    rows = await granted(store, pool, 2)
    assert rows is not None
    assert {row.database_id for row in rows} == {fresh, fresher}
    for row in rows:
        database = plane.row("databases", row.database_id)
        assert database is not None
        assert (database["state"], database["lease_id"], database["generation"]) == ("leased", row.id, 5)
        lease = plane.row("leases", row.id)
        assert lease is not None
        assert (lease["state"], lease["database_id"], lease["generation"]) == ("active", row.database_id, 5)
    assert len({row.database_id for row in rows}) == 2
    assert plane.state("databases", old) == "ready"


@pytest.mark.parametrize("state", [state for state in DatabaseState if state != "ready"])
async def test_a_database_that_is_not_ready_is_not_leased(
    store: Store, plane: Plane, state: DatabaseState
) -> None:
    pool = plane.pool()
    there = plane.database(state, pool)
    before = plane.row("databases", there)
    assert await granted(store, pool) is None
    assert plane.row("databases", there) == before
    assert leases_there(plane) == 0
    ready = plane.database("ready", pool, state_changed_at=EARLIER)
    rows = await granted(store, pool)
    assert rows is not None
    assert [row.database_id for row in rows] == [ready]
    assert plane.row("databases", there) == before


async def test_a_database_of_another_pool_is_not_leased(store: Store, plane: Plane) -> None:
    pool = plane.pool()
    other = plane.database("ready")
    assert await granted(store, pool) is None
    assert plane.state("databases", other) == "ready"


async def test_too_few_ready_databases_are_left_as_they_are(store: Store, plane: Plane) -> None:
    pool = plane.pool()
    there = plane.database("ready", pool)
    assert await granted(store, pool, 2) is None
    assert plane.state("databases", there) == "ready"
    assert leases_there(plane) == 0


@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize("state", ["building", "failed", "retired"])
async def test_nothing_is_leased_of_a_template_that_is_not_ready(
    store: Store, plane: Plane, state: str, *, pinned: bool
) -> None:
    pool = plane.pool(plane.template(state, ready_at=EARLIER))
    there = plane.database("ready", pool)
    with pytest.raises(OutOfDate):
        await granted(store, pool, pinned=pinned)
    assert plane.state("databases", there) == "ready"


async def test_nothing_is_leased_of_a_pool_that_is_refused(store: Store, plane: Plane) -> None:
    pool = plane.pool(refusal={"why": "no"})
    there = plane.database("ready", pool)
    with pytest.raises(OutOfDate):
        await granted(store, pool)
    assert plane.state("databases", there) == "ready"


async def test_nothing_is_leased_of_an_unknown_pool(store: Store, plane: Plane) -> None:
    plane.database("ready")
    with pytest.raises(OutOfDate):
        await granted(store, uuid4())


@pytest.mark.parametrize(
    ("newer", "refused"),
    [
        ({"state": "ready", "name": "shop", "ready_at": datetime.now(UTC)}, True),
        ({"state": "ready", "name": "other", "ready_at": datetime.now(UTC)}, False),
        ({"state": "retired", "name": "shop", "ready_at": datetime.now(UTC)}, False),
        ({"state": "ready", "name": "shop", "ready_at": EARLIER - timedelta(hours=1)}, False),
    ],
    ids=["newer", "of another name", "retired", "older"],
)
async def test_only_the_newest_ready_template_is_leased_unless_it_is_pinned(
    store: Store, plane: Plane, newer: dict[str, object], *, refused: bool
) -> None:
    pool = plane.pool(plane.template("ready", ready_at=EARLIER))
    plane.template(**newer)  # type: ignore[arg-type]
    there = plane.database("ready", pool)
    if refused:
        with pytest.raises(OutOfDate):
            await granted(store, pool)
        assert plane.state("databases", there) == "ready"
    assert await granted(store, pool, pinned=refused) is not None
    assert plane.state("databases", there) == "leased"


async def test_a_token_leases_up_to_its_quota(store: Store, plane: Plane) -> None:
    pool = plane.pool()
    for _ in range(4):
        plane.database("ready", pool)
    owner = token(plane, max_leases=2)
    plane.lease("active")
    plane.lease("released")
    plane.lease("active", principal="other")
    with pytest.raises(OverQuota) as refused:
        await granted(store, pool, 2, token=owner)
    assert (refused.value.held, refused.value.limit) == (1, 2)
    assert leases_there(plane) == 3
    assert await granted(store, pool, token=owner) is not None
    with pytest.raises(OverQuota):
        await granted(store, pool, token=owner)
    assert await granted(store, pool) is not None


@pytest.mark.parametrize("ended", ["revoked_at", "expires_at"])
async def test_a_token_that_has_ended_leases_nothing(store: Store, plane: Plane, ended: str) -> None:
    pool = plane.pool()
    there = plane.database("ready", pool)
    owner = token(plane, **{ended: EARLIER})
    with pytest.raises(TokenEnded):
        await granted(store, pool, token=owner)
    assert plane.state("databases", there) == "ready"
    plane.sql(f"update tokens set {ended} = null")
    assert await granted(store, pool, token=owner) is not None


async def test_shares_are_granted_together_or_not_at_all(store: Store, plane: Plane) -> None:
    one, other = plane.pool(), plane.pool(plane.template(name="other"))
    there = plane.database("ready", one)
    shares = [GrantShare(pool, (uuid4(),), True, 0, 60) for pool in (one, other)]
    assert await grant.grant(store, TERMS, shares) is None
    assert plane.state("databases", there) == "ready"
    plane.database("ready", other)
    assert len(await grant.grant(store, TERMS, shares) or []) == 2
