"""Statements over templates: each case breaks one condition of a statement."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID, uuid4

import pytest
from psycopg.types.json import Jsonb

from freshdb_service.lifecycle import LEASE_LIVE, LeaseState, TemplateState
from freshdb_service.store import pools, templates
from freshdb_service.store.connection import Connection, Store
from freshdb_service.store.rows import TemplateRow
from freshdb_service.store.templates import Registration
from tests.integration.store.plane import SERVER, Plane

EARLIER: Final = datetime.now(UTC) - timedelta(hours=1)
LATER: Final = datetime.now(UTC) + timedelta(hours=1)


async def register(store: Store) -> tuple[TemplateRow, bool]:
    wanted = Registration("shop", "f", [], ["select 1"], "c", 60, "token", SERVER)
    async with store.transaction() as connection:
        return await templates.register(connection, wanted)


def template_of(plane: Plane, template: UUID) -> dict[str, object]:
    row = plane.row("templates", template)
    assert row is not None
    return row


# register


def look_alikes(plane: Plane) -> None:
    """Templates that differ from the registered one in one respect."""
    plane.template("retired", fingerprint="f")
    plane.template("ready", name="other", fingerprint="f")
    plane.template("ready", fingerprint="another")


@pytest.mark.parametrize("there", [None, "retired"])
async def test_a_new_template_is_building(store: Store, plane: Plane, there: str | None) -> None:
    plane.server()
    before = None if there is None else plane.template(there, fingerprint="f")
    template, ours = await register(store)
    assert ours
    assert template.id != before
    assert (template.state, template.attempt) == (TemplateState.BUILDING, 1)
    assert template_of(plane, template.id)["build_deadline_at"] is not None
    assert template.build_deadline_at is not None
    assert template.build_deadline_at > datetime.now(UTC)


@pytest.mark.parametrize(
    ("state", "values"),
    [("failed", {}), ("failed", {"build_deadline_at": LATER}), ("building", {"build_deadline_at": EARLIER})],
)
async def test_a_failed_or_overdue_build_is_assigned_to_the_caller(
    store: Store, plane: Plane, state: str, values: dict[str, object]
) -> None:
    there = plane.template(state, fingerprint="f", **values)
    other = plane.template(state, fingerprint="other", **values)
    look_alikes(plane)
    template, ours = await register(store)
    assert ours
    assert (template.id, template.state, template.attempt) == (there, TemplateState.BUILDING, 2)
    assert template_of(plane, there)["build_token"] == "token"
    assert template.build_deadline_at is not None
    assert template.build_deadline_at > datetime.now(UTC)
    assert (plane.state("templates", other), template_of(plane, other)["attempt"]) == (state, 1)


@pytest.mark.parametrize(
    ("state", "values"),
    [
        ("ready", {}),
        ("ready", {"build_deadline_at": EARLIER}),
        ("building", {"build_deadline_at": LATER}),
        ("building", {}),
    ],
)
async def test_a_ready_or_building_template_is_found_unchanged(
    store: Store, plane: Plane, state: str, values: dict[str, object]
) -> None:
    there = plane.template(state, fingerprint="f", **values)
    look_alikes(plane)
    before = template_of(plane, there)
    template, ours = await register(store)
    assert (template.id, ours) == (there, False)
    assert template_of(plane, there) == before


# take_over_sql_build


async def take_over(store: Store) -> TemplateRow | None:
    async with store.statement() as connection:
        return await templates.take_over_sql_build(connection, claim_seconds=60)


async def test_an_overdue_build_from_sql_is_taken_over(store: Store, plane: Plane) -> None:
    other = plane.template("building", build_deadline_at=LATER, sql={"a": 1})
    there = plane.template("building", build_deadline_at=EARLIER, sql={"a": 1}, database_name="d")
    taken = await take_over(store)
    assert taken is not None
    assert (taken.id, taken.attempt, taken.database_name) == (there, 2, None)
    assert plane.state("templates", there) == "building"
    assert taken.build_deadline_at is not None
    assert taken.build_deadline_at > datetime.now(UTC)
    assert template_of(plane, other)["attempt"] == 1
    assert await take_over(store) is None


@pytest.mark.parametrize(
    ("state", "deadline", "sql"),
    [
        ("building", LATER, {"a": 1}),
        ("building", None, {"a": 1}),
        ("building", EARLIER, None),
        ("ready", EARLIER, {"a": 1}),
        ("failed", EARLIER, {"a": 1}),
        ("retired", EARLIER, {"a": 1}),
    ],
)
async def test_no_other_build_is_taken_over(
    store: Store, plane: Plane, state: str, deadline: datetime | None, sql: dict[str, object] | None
) -> None:
    there = plane.template(state, build_deadline_at=deadline, sql=sql)
    before = template_of(plane, there)
    assert await take_over(store) is None
    assert template_of(plane, there) == before


# extend, make_ready, make_failed: of the attempt that builds


async def extend(connection: Connection, template: UUID, attempt: int) -> object:
    return await templates.extend(connection, template, attempt, 7200)


async def make_ready(connection: Connection, template: UUID, attempt: int) -> object:
    return await templates.make_ready(
        connection, template, attempt, database_name="d", size_bytes=1, log=None, warnings=[]
    )


async def make_failed(connection: Connection, template: UUID, attempt: int) -> object:
    return await templates.make_failed(connection, template, attempt, {"code": "no"}, log=None)


Finish = Callable[[Connection, UUID, int], Awaitable[object]]
FINISHES: Final[list[Finish]] = [extend, make_ready, make_failed]


@pytest.mark.parametrize(
    ("finish", "state"), [(extend, "building"), (make_ready, "ready"), (make_failed, "failed")]
)
async def test_the_attempt_that_builds_sets_the_result(
    store: Store, plane: Plane, finish: Finish, state: str
) -> None:
    there, other = (plane.template("building", attempt=3, build_deadline_at=LATER) for _ in range(2))
    before = template_of(plane, other)
    async with store.statement() as connection:
        assert await finish(connection, there, 3) is not None
    after = template_of(plane, there)
    assert after["state"] == state
    assert (after["ready_at"] is not None) == (state == "ready")
    deadline = after["build_deadline_at"]
    assert (deadline is None) == (state != "building")
    assert deadline is None or (isinstance(deadline, datetime) and deadline > LATER)
    assert template_of(plane, other) == before


@pytest.mark.parametrize("finish", FINISHES)
@pytest.mark.parametrize(("state", "attempt"), [("building", 4), ("ready", 3), ("failed", 3), ("retired", 3)])
async def test_an_attempt_that_no_longer_builds_changes_nothing(
    store: Store, plane: Plane, finish: Finish, state: str, attempt: int
) -> None:
    there = plane.template(state, attempt=attempt, build_deadline_at=LATER)
    before = template_of(plane, there)
    async with store.statement() as connection:
        assert await finish(connection, there, 3) is None
    assert template_of(plane, there) == before


# retire_outdated, register_again, keep_outdated, and how outdated templates are found


OUTDATED: Final = {"message": "changed", "outdated": True}


@pytest.mark.parametrize("state", TemplateState)
async def test_only_a_ready_template_is_retired_as_outdated(
    store: Store, plane: Plane, state: TemplateState
) -> None:
    there, other = plane.template(state), plane.template("ready")
    plane.lease("active", template_id=there)
    async with store.statement() as connection:
        retired = await templates.retire_outdated(connection, there, OUTDATED)
    assert (retired is not None) == (state == "ready")
    assert plane.state("templates", there) == ("retired" if state == "ready" else state)
    assert template_of(plane, there)["error"] == (OUTDATED if state == "ready" else None)
    assert plane.state("templates", other) == "ready"


async def test_a_retired_template_is_registered_again_with_the_sizes_of_its_pools(
    store: Store, plane: Plane
) -> None:
    copied = {
        "fingerprint": "f",
        "extensions": ["vector"],
        "sql": ["select 1"],
        "content": "c",
        "ready_at": EARLIER,
        "last_used_at": EARLIER,
        "token_id": uuid4(),
    }
    values = {**copied, **{name: Jsonb(copied[name]) for name in ("extensions", "sql")}}
    old, other = plane.template("retired", **values), plane.template("ready")
    for isolation, size in (("database", 7), ("schema", 8)):
        plane.pool(old, isolation=isolation, max_size=size, min_ready=3, idle_seconds=9)
    plane.pool(other)
    async with store.transaction() as connection:
        again = await templates.register_again(connection, old, 60)
        sizes = {
            (one.isolation, one.max_size, one.min_ready, one.idle_seconds)
            for one in await pools.listing(connection)
            if one.template_id == again.id
        }
    row = template_of(plane, again.id)
    assert {name: row[name] for name in copied} == copied
    assert (row["state"], row["attempt"], row["name"], row["build_seconds"]) == ("building", 1, "shop", 60)
    assert row["database_name"] is None
    assert again.build_deadline_at is not None
    assert again.build_deadline_at > datetime.now(UTC)
    assert sizes == {("database", 7, 3, 9), ("schema", 8, 3, 9)}
    assert plane.state("templates", old) == "retired"
    async with store.statement() as connection:
        ready = await templates.make_ready(
            connection, again.id, 1, database_name="d", size_bytes=1, log=None, warnings=[]
        )
    assert ready is not None
    assert ready.ready_at == EARLIER


def outdated(plane: Plane, **values: object) -> UUID:
    """Insert a template that was retired because it is outdated."""
    return plane.template(
        "retired", error=Jsonb(OUTDATED), **{"ready_at": EARLIER, "fingerprint": "f", **values}
    )


@pytest.mark.parametrize(
    ("state", "values", "found"),
    [
        (None, {}, "outdated"),
        ("building", {"fingerprint": "f"}, "other"),
        ("failed", {"fingerprint": "f"}, "other"),
        ("ready", {"ready_at": LATER}, "other"),
        ("ready", {"ready_at": EARLIER - timedelta(hours=1)}, "outdated"),
        ("building", {}, "outdated"),
        ("retired", {"ready_at": LATER}, "outdated"),
        ("ready", {"name": "another", "ready_at": LATER}, "outdated"),
    ],
)
async def test_an_outdated_template_is_found_until_it_is_built_again_or_replaced(
    store: Store, plane: Plane, state: str | None, values: dict[str, object], found: str
) -> None:
    there = {"outdated": outdated(plane)}
    if state is not None:
        there["other"] = plane.template(state, **values)
    async with store.statement() as connection:
        newest = await templates.find(connection, "shop", None)
        listed = await templates.outdated(connection, limit=5)
        exact = await templates.find(connection, "shop", "f")
    assert newest is not None
    assert newest.id == there[found]
    assert [one.id for one in listed] == [there["outdated"]] * (found == "outdated")
    assert (exact is None) == (found == "other" and values.get("fingerprint") != "f")


async def test_a_template_that_is_built_again_is_listed_with_the_outdated_ones(
    store: Store, plane: Plane
) -> None:
    again = plane.template("building", ready_at=EARLIER)
    plane.template("building")
    plane.template("ready", ready_at=EARLIER)
    async with store.statement() as connection:
        assert [one.id for one in await templates.outdated(connection, limit=5)] == [again]


async def test_the_row_of_an_outdated_template_stays_until_its_last_use_is_long_ago(
    store: Store, plane: Plane
) -> None:
    there = outdated(plane, database_name="d", size_bytes=1, disk_bytes=1)
    plane.pool(there)
    other = plane.template("retired", database_name="d", error=Jsonb({"message": "no"}))
    kept_pool = plane.pool(other)
    third = outdated(plane, fingerprint="g", database_name="d")
    async with store.transaction() as connection:
        assert {one.id for one in await templates.retired_without_databases(connection, 60)} == {
            *(there, other, third)
        }
        assert [await templates.keep_outdated(connection, one) for one in (there, other, there)] == [
            True,
            False,
            False,
        ]
        assert {one.id for one in await templates.retired_without_databases(connection, 60)} == {other, third}
        assert len(await templates.retired_without_databases(connection, 0)) == 3
        assert [one.id for one in await pools.listing(connection)] == [kept_pool]
    row = template_of(plane, there)
    assert [row[name] for name in ("state", "database_name", "size_bytes", "disk_bytes")] == [
        "retired",
        None,
        None,
        0,
    ]
    assert [template_of(plane, one)["database_name"] for one in (other, third)] == ["d", "d"]
    plane.template("building", fingerprint="f")
    async with store.statement() as connection:
        assert len(await templates.retired_without_databases(connection, 60)) == 3


# retire, retire_unused


async def retire(store: Store, template: UUID, *, even_leased: bool = False) -> TemplateRow | None:
    async with store.statement() as connection:
        return await templates.retire(connection, template, even_leased=even_leased)


async def retire_unused(store: Store) -> list[UUID]:
    async with store.statement() as connection:
        return [template.id for template in await templates.retire_unused(connection, 60)]


@pytest.mark.parametrize("state", ["ready", "failed"])
async def test_a_ready_or_failed_template_is_retired(store: Store, plane: Plane, state: str) -> None:
    there, other = plane.template(state), plane.template(state)
    for ended in set(LeaseState) - LEASE_LIVE:
        plane.lease(ended, template_id=there)
    plane.lease("active", template_id=other)
    assert await retire(store, there) is not None
    assert (plane.state("templates", there), plane.state("templates", other)) == ("retired", state)


@pytest.mark.parametrize("state", ["building", "retired"])
async def test_no_other_template_is_retired(store: Store, plane: Plane, state: str) -> None:
    there = plane.template(state, last_used_at=EARLIER)
    assert await retire(store, there) is None
    assert await retire_unused(store) == []
    assert plane.state("templates", there) == state


@pytest.mark.parametrize("lease", sorted(LEASE_LIVE))
async def test_a_template_with_live_leases_is_retired_only_if_requested(
    store: Store, plane: Plane, lease: str
) -> None:
    there = plane.template(last_used_at=EARLIER)
    plane.lease(lease, template_id=there)
    assert await retire(store, there) is None
    assert await retire_unused(store) == []
    assert plane.state("templates", there) == "ready"
    assert await retire(store, there, even_leased=True) is not None
    assert plane.state("templates", there) == "retired"


async def test_only_unused_templates_are_retired(store: Store, plane: Plane) -> None:
    unused = {plane.template(state, last_used_at=EARLIER) for state in ("ready", "failed")}
    used, leased = plane.template(), plane.template(last_used_at=EARLIER)
    plane.lease("active", template_id=leased)
    plane.lease("released", template_id=next(iter(unused)))
    assert set(await retire_unused(store)) == unused
    assert {plane.state("templates", one) for one in unused} == {"retired"}
    assert {plane.state("templates", one) for one in (used, leased)} == {"ready"}


# delete_row, note_disk


@pytest.mark.parametrize("state", TemplateState)
async def test_only_a_retired_templates_row_is_deleted(
    store: Store, plane: Plane, state: TemplateState
) -> None:
    there, other = plane.template(state), plane.template("retired")
    async with store.statement() as connection:
        await templates.delete_row(connection, there)
    assert plane.state("templates", there) == (None if state == "retired" else state)
    assert plane.state("templates", other) == "retired"


async def test_disk_usage_is_noted_for_each_template(store: Store, plane: Plane) -> None:
    there, other = plane.template(), plane.template()
    async with store.statement() as connection:
        await templates.note_disk(connection, {there: 7})
    assert (template_of(plane, there)["disk_bytes"], template_of(plane, other)["disk_bytes"]) == (7, None)
