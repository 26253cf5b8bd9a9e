"""Scenarios: the work of a process at its death, and the actions of its callers afterwards.

A scenario has three parts. ``prepare`` creates the initial state and is not counted. ``act`` is the work in the middle of
which the process is killed. The answers that callers received are recorded in ``ClientState``. ``resume`` is the work of
these callers with another replica afterwards: mostly the same request again.
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
from freshdb_service.postgres import outdated_databases
from freshdb_service.store.rows import LeaseRow
from freshdb_service.templates.registry import RegisterRequest
from tests.integration.installations import SQL, Bench
from tests.limits import LIMIT_SECONDS
from tests.services import with_database

PRINCIPAL: Final = "client"
KEY: Final = "the-key"
TIMEOUT_SECONDS: Final = LIMIT_SECONDS
_RETRY_SECONDS: Final = 0.05


@dataclass(slots=True)
class ClientState:
    """State that is known outside of the killed process.

    Attributes:
        leases: the granted leases, with their URLs.
        ended: the leases whose release or revocation was answered.
    """

    isolation: Isolation
    leases: dict[UUID, str] = field(default_factory=dict)
    ended: set[UUID] = field(default_factory=set)

    def add_lease(self, granted: Granted, dsn: str) -> None:
        """Record a granted lease."""
        self.leases[granted.lease.id] = url_of(granted.lease, dsn)

    @property
    def lease_id(self) -> UUID:
        """The id of the only lease."""
        [lease_id] = self.leases
        return lease_id


@dataclass(frozen=True, slots=True)
class Context:
    """The replica and the servers on which a scenario runs."""

    bench: Bench
    client_state: ClientState
    dsn: str
    control: str
    report: Callable[[ClientState], None]

    async def lease(self, *, ttl_seconds: float = 300.0, changes: str = "") -> UUID:
        """Acquire a lease, and run a statement in its database."""
        [granted] = await self.acquire(ttl_seconds=ttl_seconds)
        self.client_state.add_lease(granted, self.dsn)
        if changes:
            run(self.client_state.leases[granted.lease.id], changes)
        return granted.lease.id

    async def acquire(
        self, *, ttl_seconds: float = 300.0, key: str | None = None, number: int = 1
    ) -> list[Granted]:
        """Acquire, and run the replenisher until there is an answer."""
        wanted = [AcquireRequest("shop", self.client_state.isolation, ttl_seconds)] * number
        acquiring = asyncio.create_task(
            self.bench.acquiring.acquire(
                wanted, principal=PRINCIPAL, wait_seconds=TIMEOUT_SECONDS, idempotency_key=key
            )
        )
        in_queue = asyncio.create_task(self.bench.at.queue.stay(self.bench.at.stopping))
        try:
            while not acquiring.done():
                await self.bench.replenisher.run_once()
                await asyncio.wait([acquiring], timeout=_RETRY_SECONDS)
            return await acquiring
        finally:
            in_queue.cancel()
            await asyncio.gather(in_queue, return_exceptions=True)

    async def wait_for(self, condition: Callable[[], Awaitable[bool]]) -> None:
        """Repeat ``condition`` until it returns true, and run the maintenance loops in between."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while not await condition():
                await run_loops(self.bench)
                await asyncio.sleep(_RETRY_SECONDS)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One scenario, as described above."""

    name: str
    prepare: Callable[[Context], Awaitable[object]]
    act: Callable[[Context], Awaitable[object]]
    resume: Callable[[Context], Awaitable[object]]
    count_start: bool = False
    """Count the steps of the replica's own start, too."""
    isolations: tuple[Isolation, ...] = tuple(Isolation)


ROW_CHANGES: Final = "INSERT INTO item (name) VALUES ('marker'); SELECT nextval('item_id_seq')"
SCHEMA_CHANGES: Final = "CREATE TABLE marker (a integer); UPDATE item SET name = 'marker'"


def run(url: str, *statements: str) -> None:
    """Run statements as the holder."""
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def url_of(lease: LeaseRow, dsn: str) -> str:
    """Return the URL that the holder receives."""
    server = dsn.rpartition("@")[2].split("/", maxsplit=1)[0]
    return f"postgresql://{lease.login}:{lease.password}@{server}/{lease.database_name}"


async def run_loops(bench: Bench) -> None:
    """Run each maintenance loop of a replica once."""
    for loop in (bench.reaper, bench.janitor, bench.replenisher, bench.reconciler):
        await loop.run_once()
    await bench.reset_jobs.resets.finish()


async def do_nothing(context: Context) -> None:
    """Do nothing."""


async def create_template(context: Context) -> None:
    """Create a ready template with one ready database."""
    await context.bench.template()
    lease_id = await context.lease()
    await context.bench.leases.release(lease_id, principal=PRINCIPAL)
    await context.bench.reset_jobs.resets.finish()
    context.client_state.leases.clear()


def create_lease(changes: str = "", ttl_seconds: float = 300.0) -> Callable[[Context], Awaitable[None]]:
    """Lease a database, and change it."""

    async def prepare(context: Context) -> None:
        await context.bench.template()
        await context.lease(ttl_seconds=ttl_seconds, changes=changes)

    return prepare


async def register(context: Context) -> None:
    await context.bench.templates.register(
        RegisterRequest("shop", None, [SQL], [], 60), wait_seconds=TIMEOUT_SECONDS
    )


async def register_again(context: Context) -> None:
    await context.wait_for(lambda: _registered(context, RegisterRequest("shop", None, [SQL], [], 60)))


_CLIENT_BUILD: Final = RegisterRequest("shop", "built-by-client", None, [], 1)


async def build_template(context: Context) -> None:
    registered = await context.bench.templates.register(_CLIENT_BUILD, wait_seconds=0)
    await _build(context, registered)


async def build_template_again(context: Context) -> None:
    await context.wait_for(lambda: _registered(context, _CLIENT_BUILD))


async def _registered(context: Context, wanted: RegisterRequest) -> bool:
    with suppress(FreshdbError):
        registered = await context.bench.templates.register(wanted, wait_seconds=0.1)
        if registered.build is not None:
            await _build(context, registered)
        return (await context.bench.templates.find("shop")).state is TemplateState.READY
    return False


async def _build(context: Context, registered: object) -> None:
    build, template = registered.build, registered.template  # type: ignore[attr-defined]
    url = f"postgresql://{build.login.user}:{build.login.password}@{build.host}:{build.port}/{build.login.database}"
    run(url, SQL)
    await context.bench.templates.finish_build(template.id, build.token)


async def provision(context: Context) -> None:
    for _ in range(2):
        await context.bench.replenisher.run_once()


async def request_pool(context: Context) -> None:
    """Ask for a pool that does not exist yet, and do not wait for it."""
    await context.bench.template()
    with suppress(FreshdbError):
        await context.bench.acquiring.acquire(
            [AcquireRequest("shop", context.client_state.isolation, 300)], principal=PRINCIPAL, wait_seconds=0
        )


async def acquire_one(context: Context) -> None:
    for granted in await context.acquire(key=KEY):
        context.client_state.add_lease(granted, context.dsn)
    context.report(context.client_state)


async def acquire_two(context: Context) -> None:
    for granted in await context.acquire(key=KEY, number=2):
        context.client_state.add_lease(granted, context.dsn)
    context.report(context.client_state)


async def acquire_one_again(context: Context) -> None:
    await _acquire_again(context, 1)


async def acquire_two_again(context: Context) -> None:
    await _acquire_again(context, 2)


async def _acquire_again(context: Context, number: int) -> None:
    granted = await context.acquire(key=KEY, number=number)
    if context.client_state.leases:
        assert {one.lease.id for one in granted} == set(context.client_state.leases)
    for one in granted:
        context.client_state.add_lease(one, context.dsn)


async def renew(context: Context) -> None:
    await context.bench.leases.renew(context.client_state.lease_id, principal=PRINCIPAL, ttl_seconds=300)


async def release(context: Context) -> None:
    await context.bench.leases.release(context.client_state.lease_id, principal=PRINCIPAL)
    context.client_state.ended.add(context.client_state.lease_id)
    context.report(context.client_state)
    await context.bench.reset_jobs.resets.finish()


async def release_again(context: Context) -> None:
    await context.bench.leases.release(context.client_state.lease_id, principal=PRINCIPAL)
    context.client_state.ended.add(context.client_state.lease_id)


async def revoke(context: Context) -> None:
    await context.bench.leases.revoke(context.client_state.lease_id, reason="test")
    context.client_state.ended.add(context.client_state.lease_id)
    context.report(context.client_state)
    await context.bench.reset_jobs.resets.finish()


async def revoke_again(context: Context) -> None:
    with suppress(LeaseEnded):
        await context.bench.leases.revoke(context.client_state.lease_id, reason="test")
    context.client_state.ended.add(context.client_state.lease_id)


async def create_expired_lease(context: Context) -> None:
    """Create a lease whose deadline has passed and which the reaper has not ended yet."""
    await context.bench.template()
    lease_id = await context.lease(ttl_seconds=60.0, changes=ROW_CHANGES)
    await context.bench.leases.renew(lease_id, principal=PRINCIPAL, ttl_seconds=60.0)
    await context.bench.reaper.run_once()
    redis = context.bench.at.redis
    assert await redis.client.zadd(redis.key("deadlines"), {str(lease_id): 1}, xx=True, ch=True) == 1


async def reap(context: Context) -> None:
    await context.bench.reaper.run_once()
    await context.bench.reset_jobs.resets.finish()


async def wait_until_reaped(context: Context) -> None:
    lease_id = context.client_state.lease_id

    async def has_ended() -> bool:
        try:
            return (await context.bench.leases.get(lease_id)).ended_at is not None
        except LeaseNotFound:  # ended and pruned
            return True

    await context.wait_for(has_ended)
    context.client_state.ended.add(lease_id)


async def reset_in_place(context: Context) -> None:
    granted = await context.bench.leases.reset(context.client_state.lease_id, principal=PRINCIPAL)
    context.client_state.add_lease(granted, context.dsn)
    context.report(context.client_state)


async def reset_in_place_again(context: Context) -> None:
    async def done() -> bool:
        with suppress(FreshdbError):
            context.client_state.add_lease(
                await context.bench.leases.reset(context.client_state.lease_id, principal=PRINCIPAL),
                context.dsn,
            )
            return True
        return False

    await context.wait_for(done)
    run(
        context.client_state.leases[context.client_state.lease_id],
        "SELECT 1 / (count(*) = 1)::int FROM item WHERE name = 'apple'",
    )


async def keep(context: Context) -> None:
    await context.bench.leases.keep(
        context.client_state.lease_id, principal=PRINCIPAL, ttl_seconds=60, reason="inspection"
    )


async def create_dirty_database(context: Context) -> None:
    """Create a dirty database for the janitor."""
    await context.bench.template()
    lease_id = await context.lease(changes=SCHEMA_CHANGES)
    async with context.bench.all_slots_taken():
        await context.bench.leases.release(lease_id, principal=PRINCIPAL)
    context.client_state.ended.add(lease_id)


async def run_janitor(context: Context) -> None:
    await context.bench.janitor.run_once()


async def drop_template(context: Context) -> None:
    await context.bench.templates.retire("shop", force=True)
    await context.bench.replenisher.run_once()
    await context.bench.reconciler.run_once()


async def register_retired_template(context: Context) -> None:
    """Register a template again that was retired."""
    await context.wait_for(lambda: _registered(context, RegisterRequest("shop", None, [SQL], [], 60)))


async def create_differences(context: Context) -> None:
    """Drop a ready database by hand, empty Redis, and hold a lease."""
    await create_template(context)
    await context.lease(changes=ROW_CHANGES)
    await context.bench.replenisher.run_once()
    with psycopg.connect(context.control, autocommit=True) as control:
        ready = control.execute(
            "SELECT database_name, schema_name FROM databases WHERE state = 'ready'"
        ).fetchall()
    assert ready
    for database, schema in ready:
        if schema is None:
            run(context.dsn, f'DROP DATABASE "{database}" WITH (FORCE)')
        else:
            run(with_database(context.dsn, database), f'DROP SCHEMA "{schema}" CASCADE')
    await context.bench.at.redis.client.flushall()


async def reconcile(context: Context) -> None:
    for _ in range(2):
        await run_loops(context.bench)


async def update_library(context: Context) -> None:
    """Make the template of a leased database older than the server's collations."""
    await create_template(context)
    await context.lease(changes=ROW_CHANGES)
    template = await context.bench.templates.find("shop")
    outdated = f"UPDATE pg_database SET datcollversion = '0' WHERE datname = '{template.database_name}'"
    run(context.dsn, outdated)


async def build_again(context: Context) -> None:
    await context.bench.reconciler.run_once()
    await context.bench.builds.close()
    await reconcile(context)


async def wait_until_built_again(context: Context) -> None:
    [server] = context.bench.at.servers.values()

    async def is_ready() -> bool:
        template = await context.bench.templates.find("shop")
        outdated = await outdated_databases(server)
        return template.state is TemplateState.READY and template.database_name not in outdated

    await context.wait_for(is_ready)


SCENARIOS: Final = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "start, and register",
            do_nothing,
            register,
            register_again,
            count_start=True,
            isolations=(Isolation.DATABASE,),
        ),
        Scenario("build", do_nothing, build_template, build_template_again, isolations=(Isolation.DATABASE,)),
        Scenario("provision", request_pool, provision, do_nothing),
        Scenario("acquire", create_template, acquire_one, acquire_one_again),
        Scenario("acquire two that do not exist yet", create_template, acquire_two, acquire_two_again),
        Scenario("renew", create_lease(ROW_CHANGES), renew, renew),
        Scenario("release, with rows", create_lease(ROW_CHANGES), release, release_again),
        Scenario("release, with a rebuild", create_lease(SCHEMA_CHANGES), release, release_again),
        Scenario("revoke", create_lease(ROW_CHANGES), revoke, revoke_again),
        Scenario("keep", create_lease(ROW_CHANGES), keep, keep),
        Scenario("reap", create_expired_lease, reap, wait_until_reaped),
        Scenario("reset in place", create_lease(ROW_CHANGES), reset_in_place, reset_in_place_again),
        Scenario(
            "reset in place, with a rebuild",
            create_lease(SCHEMA_CHANGES),
            reset_in_place,
            reset_in_place_again,
        ),
        Scenario("rebuild by the janitor", create_dirty_database, run_janitor, do_nothing),
        Scenario("drop", create_template, drop_template, register_retired_template),
        Scenario("reconcile", create_differences, reconcile, do_nothing),
        Scenario("build an outdated template again", update_library, build_again, wait_until_built_again),
    )
}
