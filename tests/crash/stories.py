"""Stories: the work of a process at its death, and the actions of its callers afterwards.

A story has three parts. ``prepare`` creates the initial state and is not counted. ``act`` is the work in the middle of which
the process is killed. The answers that callers received are recorded in ``Told``. ``resume`` is the work of these callers
with another replica afterwards: mostly the same request again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import psycopg

from freshdb_service.errors import FreshdbError, LeaseEnded, LeaseNotFound
from freshdb_service.leasing.acquire import Granted
from freshdb_service.leasing.acquire_request import AcquireRequest
from freshdb_service.lifecycle import Isolation, TemplateState
from freshdb_service.store.rows import LeaseRow
from freshdb_service.templates.registry import RegisterRequest
from tests.integration.installations import SQL, Bench
from tests.limits import LIMIT_SECONDS
from tests.services import with_database

WHO: Final = "client"
KEY: Final = "the one"
PATIENCE_SECONDS: Final = LIMIT_SECONDS
_AGAIN_SECONDS: Final = 0.05


@dataclass(slots=True)
class Told:
    """State that is known outside of the killed process.

    Attributes:
        leases: the granted leases, with their URLs.
        ended: the leases whose release or revocation was answered.
    """

    isolation: Isolation
    leases: dict[UUID, str] = field(default_factory=dict)
    ended: set[UUID] = field(default_factory=set)

    def has(self, granted: Granted, dsn: str) -> None:
        """Record a granted lease."""
        self.leases[granted.lease.id] = url_of(granted.lease, dsn)

    @property
    def lease_id(self) -> UUID:
        """The id of the only lease."""
        [lease_id] = self.leases
        return lease_id


@dataclass(frozen=True, slots=True)
class Here:
    """The replica and the servers on which a story runs."""

    bench: Bench
    told: Told
    dsn: str
    control: str
    tell: Callable[[Told], None]

    async def leased(self, *, ttl_seconds: float = 300.0, mess: str = "") -> UUID:
        """Acquire a lease, and run a statement in its database."""
        [granted] = await self.acquired(ttl_seconds=ttl_seconds)
        self.told.has(granted, self.dsn)
        if mess:
            run(self.told.leases[granted.lease.id], mess)
        return granted.lease.id

    async def acquired(
        self, *, ttl_seconds: float = 300.0, key: str | None = None, number: int = 1
    ) -> list[Granted]:
        """Acquire, and run the replenisher until there is an answer."""
        wanted = [AcquireRequest("shop", self.told.isolation, ttl_seconds)] * number
        acquiring = asyncio.create_task(
            self.bench.acquiring.acquire(
                wanted, principal=WHO, wait_seconds=PATIENCE_SECONDS, idempotency_key=key
            )
        )
        staying = asyncio.create_task(self.bench.at.queue.stay(self.bench.at.stopping))
        try:
            while not acquiring.done():
                await self.bench.replenisher.run_once()
                await asyncio.wait([acquiring], timeout=_AGAIN_SECONDS)
            return await acquiring
        finally:
            staying.cancel()
            await asyncio.gather(staying, return_exceptions=True)

    async def until(self, ask: Callable[[], Awaitable[bool]]) -> None:
        """Repeat ``ask`` until it returns true, and run the maintenance loops in between."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await ask():
                await rounds(self.bench)
                await asyncio.sleep(_AGAIN_SECONDS)


@dataclass(frozen=True, slots=True)
class Story:
    """One story, as described above."""

    name: str
    prepare: Callable[[Here], Awaitable[object]]
    act: Callable[[Here], Awaitable[object]]
    resume: Callable[[Here], Awaitable[object]]
    from_the_start: bool = False
    """Count the steps of the replica's own start, too."""
    isolations: tuple[Isolation, ...] = tuple(Isolation)


MARKED: Final = "INSERT INTO item (name) VALUES ('marker'); SELECT nextval('item_id_seq')"
CHANGED: Final = "CREATE TABLE marker (a integer); UPDATE item SET name = 'marker'"


def run(url: str, *statements: str) -> None:
    """Run statements as the holder."""
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def url_of(lease: LeaseRow, dsn: str) -> str:
    """Return the URL that the holder receives."""
    server = dsn.rpartition("@")[2].split("/", maxsplit=1)[0]
    return f"postgresql://{lease.login}:{lease.password}@{server}/{lease.database_name}"


async def rounds(bench: Bench) -> None:
    """Run each maintenance loop of a replica once."""
    for loop in (bench.reaper, bench.janitor, bench.replenisher, bench.reconciler):
        await loop.run_once()
    await bench.reset_jobs.resets.finish()


async def nothing(here: Here) -> None:
    """Do nothing."""


async def a_template(here: Here) -> None:
    """Create a ready template with one ready database."""
    await here.bench.template()
    lease_id = await here.leased()
    await here.bench.leases.release(lease_id, principal=WHO)
    await here.bench.reset_jobs.resets.finish()
    here.told.leases.clear()


def a_lease(mess: str = "", ttl_seconds: float = 300.0) -> Callable[[Here], Awaitable[None]]:
    """Lease a database, and change it."""

    async def prepare(here: Here) -> None:
        await here.bench.template()
        await here.leased(ttl_seconds=ttl_seconds, mess=mess)

    return prepare


async def registers(here: Here) -> None:
    await here.bench.templates.register(
        RegisterRequest("shop", None, [SQL], [], 60), wait_seconds=PATIENCE_SECONDS
    )


async def registered_at_last(here: Here) -> None:
    await here.until(lambda: _registered(here, RegisterRequest("shop", None, [SQL], [], 60)))


_BUILT: Final = RegisterRequest("shop", "made-by-hand", None, [], 1)


async def builds(here: Here) -> None:
    registered = await here.bench.templates.register(_BUILT, wait_seconds=0)
    await _build(here, registered)


async def built_at_last(here: Here) -> None:
    await here.until(lambda: _registered(here, _BUILT))


async def _registered(here: Here, wanted: RegisterRequest) -> bool:
    with suppress(FreshdbError):
        registered = await here.bench.templates.register(wanted, wait_seconds=0.1)
        if registered.build is not None:
            await _build(here, registered)
        return (await here.bench.templates.find("shop")).state is TemplateState.READY
    return False


async def _build(here: Here, registered: object) -> None:
    build, template = registered.build, registered.template  # type: ignore[attr-defined]
    url = f"postgresql://{build.login.user}:{build.login.password}@{build.host}:{build.port}/{build.login.database}"
    run(url, SQL)
    await here.bench.templates.finish_build(template.id, build.token)


async def provisions(here: Here) -> None:
    for _ in range(2):
        await here.bench.replenisher.run_once()


async def a_new_pool(here: Here) -> None:
    """Ask for a pool that does not exist yet, and do not wait for it."""
    await here.bench.template()
    with suppress(FreshdbError):
        await here.bench.acquiring.acquire(
            [AcquireRequest("shop", here.told.isolation, 300)], principal=WHO, wait_seconds=0
        )


async def acquires(here: Here) -> None:
    for granted in await here.acquired(key=KEY):
        here.told.has(granted, here.dsn)
    here.tell(here.told)


async def acquires_two(here: Here) -> None:
    for granted in await here.acquired(key=KEY, number=2):
        here.told.has(granted, here.dsn)
    here.tell(here.told)


async def acquired_at_last(here: Here) -> None:
    await _again(here, 1)


async def acquired_two_at_last(here: Here) -> None:
    await _again(here, 2)


async def _again(here: Here, number: int) -> None:
    granted = await here.acquired(key=KEY, number=number)
    if here.told.leases:
        assert {one.lease.id for one in granted} == set(here.told.leases)
    for one in granted:
        here.told.has(one, here.dsn)


async def renews(here: Here) -> None:
    await here.bench.leases.renew(here.told.lease_id, principal=WHO, ttl_seconds=300)


async def releases(here: Here) -> None:
    await here.bench.leases.release(here.told.lease_id, principal=WHO)
    here.told.ended.add(here.told.lease_id)
    here.tell(here.told)
    await here.bench.reset_jobs.resets.finish()


async def released_at_last(here: Here) -> None:
    await here.bench.leases.release(here.told.lease_id, principal=WHO)
    here.told.ended.add(here.told.lease_id)


async def revokes(here: Here) -> None:
    await here.bench.leases.revoke(here.told.lease_id, reason="test")
    here.told.ended.add(here.told.lease_id)
    here.tell(here.told)
    await here.bench.reset_jobs.resets.finish()


async def revoked_at_last(here: Here) -> None:
    with suppress(LeaseEnded):
        await here.bench.leases.revoke(here.told.lease_id, reason="test")
    here.told.ended.add(here.told.lease_id)


async def a_lease_that_is_over(here: Here) -> None:
    """Create a lease whose deadline has passed and which the reaper has not ended yet."""
    await here.bench.template()
    lease_id = await here.leased(ttl_seconds=60.0, mess=MARKED)
    await here.bench.leases.renew(lease_id, principal=WHO, ttl_seconds=60.0)
    await here.bench.reaper.run_once()
    redis = here.bench.at.redis
    assert await redis.client.zadd(redis.key("deadlines"), {str(lease_id): 1}, xx=True, ch=True) == 1


async def reaps(here: Here) -> None:
    await here.bench.reaper.run_once()
    await here.bench.reset_jobs.resets.finish()


async def reaped_at_last(here: Here) -> None:
    lease_id = here.told.lease_id

    async def over() -> bool:
        try:
            return (await here.bench.leases.get(lease_id)).ended_at is not None
        except LeaseNotFound:  # ended and pruned
            return True

    await here.until(over)
    here.told.ended.add(lease_id)


async def resets_in_place(here: Here) -> None:
    granted = await here.bench.leases.reset(here.told.lease_id, principal=WHO)
    here.told.has(granted, here.dsn)
    here.tell(here.told)


async def reset_in_place_at_last(here: Here) -> None:
    async def done() -> bool:
        with suppress(FreshdbError):
            here.told.has(await here.bench.leases.reset(here.told.lease_id, principal=WHO), here.dsn)
            return True
        return False

    await here.until(done)
    run(here.told.leases[here.told.lease_id], "SELECT 1 / (count(*) = 1)::int FROM item WHERE name = 'apple'")


async def keeps(here: Here) -> None:
    await here.bench.leases.keep(here.told.lease_id, principal=WHO, ttl_seconds=60, reason="look")


async def a_dirty_database(here: Here) -> None:
    """Create a dirty database for the janitor."""
    await here.bench.template()
    lease_id = await here.leased(mess=CHANGED)
    async with here.bench.all_slots_taken():
        await here.bench.leases.release(lease_id, principal=WHO)
    here.told.ended.add(lease_id)


async def cleans(here: Here) -> None:
    await here.bench.janitor.run_once()


async def drops(here: Here) -> None:
    await here.bench.templates.retire("shop", force=True)
    await here.bench.replenisher.run_once()
    await here.bench.reconciler.run_once()


async def registered_anew(here: Here) -> None:
    """Register a template again that was retired."""
    await here.until(lambda: _registered(here, RegisterRequest("shop", None, [SQL], [], 60)))


async def a_mess(here: Here) -> None:
    """Drop a ready database by hand, empty Redis, and hold a lease."""
    await a_template(here)
    await here.leased(mess=MARKED)
    await here.bench.replenisher.run_once()
    with psycopg.connect(here.control, autocommit=True) as control:
        ready = control.execute(
            "SELECT database_name, schema_name FROM databases WHERE state = 'ready'"
        ).fetchall()
    assert ready
    for database, schema in ready:
        if schema is None:
            run(here.dsn, f'DROP DATABASE "{database}" WITH (FORCE)')
        else:
            run(with_database(here.dsn, database), f'DROP SCHEMA "{schema}" CASCADE')
    await here.bench.at.redis.client.flushall()


async def reconciles(here: Here) -> None:
    for _ in range(2):
        await rounds(here.bench)


STORIES: Final = {
    story.name: story
    for story in (
        Story(
            "start, and register",
            nothing,
            registers,
            registered_at_last,
            from_the_start=True,
            isolations=(Isolation.DATABASE,),
        ),
        Story("build", nothing, builds, built_at_last, isolations=(Isolation.DATABASE,)),
        Story("provision", a_new_pool, provisions, nothing),
        Story("acquire", a_template, acquires, acquired_at_last),
        Story("acquire two that are still to be made", a_template, acquires_two, acquired_two_at_last),
        Story("renew", a_lease(MARKED), renews, renews),
        Story("release, with rows", a_lease(MARKED), releases, released_at_last),
        Story("release, with a rebuild", a_lease(CHANGED), releases, released_at_last),
        Story("revoke", a_lease(MARKED), revokes, revoked_at_last),
        Story("keep", a_lease(MARKED), keeps, keeps),
        Story("reap", a_lease_that_is_over, reaps, reaped_at_last),
        Story("reset in place", a_lease(MARKED), resets_in_place, reset_in_place_at_last),
        Story("reset in place, with a rebuild", a_lease(CHANGED), resets_in_place, reset_in_place_at_last),
        Story("rebuild by the janitor", a_dirty_database, cleans, nothing),
        Story("drop", a_template, drops, registered_anew),
        Story("reconcile", a_mess, reconciles, nothing),
    )
}
