"""An installation in the process of the test: the real operations and loops on real servers. A test runs each round."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

import psycopg
from pydantic import SecretStr

from freshdb_service.config import Settings
from freshdb_service.embedded import postgres_binaries
from freshdb_service.leasing.acquire import Acquirer, Granted
from freshdb_service.leasing.acquire_request import AcquireRequest
from freshdb_service.leasing.leases import Leases
from freshdb_service.lifecycle import Isolation
from freshdb_service.maintenance.janitor import Janitor
from freshdb_service.maintenance.reaper import Reaper
from freshdb_service.maintenance.reconciler import Reconciler
from freshdb_service.maintenance.replenisher import Replenisher
from freshdb_service.pooling.pools import Pools
from freshdb_service.pooling.reset_jobs import ResetJobs
from freshdb_service.postgres import CleaningEngine, ServerOptions
from freshdb_service.resources import Resources, opened
from freshdb_service.store.rows import TemplateRow
from freshdb_service.templates.builds import Builds
from freshdb_service.templates.registry import RegisterRequest, TemplateRegistry
from tests.servers import PostgresServer
from tests.services import with_database

_REST_SECONDS = 2.0

SQL = "create table item (id serial primary key, name text); insert into item (name) values ('apple')"


@dataclass(frozen=True, slots=True)
class Bench:
    """One replica without its loops. The test runs their rounds."""

    at: Resources
    acquiring: Acquirer
    reset_jobs: ResetJobs
    leases: Leases
    builds: Builds
    templates: TemplateRegistry
    pools: Pools
    reaper: Reaper
    janitor: Janitor
    replenisher: Replenisher
    reconciler: Reconciler

    @classmethod
    def over(cls, resources: Resources) -> Bench:
        reset_jobs = ResetJobs(resources, CleaningEngine(audit_every=resources.settings.audit_every))
        acquiring, leases, builds = Acquirer(resources), Leases(resources, reset_jobs), Builds(resources)
        return cls(
            at=resources,
            acquiring=acquiring,
            reset_jobs=reset_jobs,
            leases=leases,
            builds=builds,
            templates=TemplateRegistry(resources, builds),
            pools=Pools(resources),
            reaper=Reaper(resources, leases),
            janitor=Janitor(resources, reset_jobs),
            replenisher=Replenisher(resources, reset_jobs, acquiring),
            reconciler=Reconciler(resources, builds),
        )

    @asynccontextmanager
    async def all_slots_taken(self) -> AsyncIterator[None]:
        """Reserve all worker slots, so that released databases stay dirty."""
        async with AsyncExitStack() as reservations:
            while self.reset_jobs.resets.free:
                await reservations.enter_async_context(self.reset_jobs.resets.reserved())
            yield

    async def released_dirty(self, held: Granted) -> None:
        """Release a lease and leave its database to the janitor."""
        async with self.all_slots_taken():
            await Leases(self.at, self.reset_jobs, slot_seconds=0).release(held.lease.id, principal="test")

    async def template(self, name: str = "shop", sql: str = SQL) -> TemplateRow:
        """Register a template and wait until it is ready."""
        registered = await self.templates.register(
            RegisterRequest(name, None, [sql], [], 60), wait_seconds=60
        )
        assert registered.template.error is None
        return registered.template

    async def acquire(self, template: str = "shop", isolation: Isolation = Isolation.DATABASE) -> Granted:
        """Acquire a lease of a ready database."""
        [granted] = await self.acquiring.acquire(
            [AcquireRequest(template, isolation, 300)], principal="test", wait_seconds=0.5
        )
        return granted

    async def states(self) -> dict[str, int]:
        """Return the number of databases in each state."""
        found: Counter[str] = Counter()
        for health in await self.pools.listing():
            found.update({state.value: number for state, number in health.databases.items()})
        return dict(found)


@dataclass(frozen=True, slots=True)
class Installation:
    """The control database and prefix of a test's installation."""

    settings: Settings
    dsns: tuple[str, ...]

    @property
    def control(self) -> str:
        """DSN of the control plane."""
        assert self.settings.control is not None
        return self.settings.control.get_secret_value()


def new_installation(servers: Sequence[PostgresServer], redis_url: str, **settings: object) -> Installation:
    """Return settings of a new installation, whose control database is on the first server."""
    prefix = f"fdb{secrets.token_hex(4)}"
    control = with_database(servers[0].dsn, f"{prefix}_control")
    with psycopg.connect(servers[0].dsn, autocommit=True) as connection:
        connection.execute(f'create database "{prefix}_control"')
    names = tuple(f"pg{one.major}" for one in servers)
    return Installation(
        Settings.model_validate(
            {
                "postgres": tuple(f"{name}={one.dsn}" for name, one in zip(names, servers, strict=True)),
                "redis": SecretStr(redis_url),
                "control": SecretStr(control),
                "prefix": prefix,
                "adopt": names,
                "data": None,
                **settings,
            }
        ),
        tuple(one.dsn for one in servers),
    )


@asynccontextmanager
async def replica(of: Installation) -> AsyncIterator[Bench]:
    """Run one replica of an installation."""
    binaries = postgres_binaries(18)
    options = ServerOptions(
        prefix=of.settings.prefix,
        command_timeout_seconds=of.settings.command_timeout_seconds,
        pg_dump=binaries / "pg_dump" if binaries else None,
    )
    async with opened(of.settings, options) as at:
        bench = Bench.over(at)
        yield bench
        with suppress(TimeoutError):  # the test may have paused a worker
            async with asyncio.timeout(_REST_SECONDS):
                await bench.reset_jobs.resets.finish()
        await bench.builds.close()


def names_on(of: Installation) -> set[str]:
    """Return all databases and roles of an installation on its servers, except the control database."""
    found: set[str] = set()
    for dsn in of.dsns:
        with psycopg.connect(dsn, autocommit=True) as connection:
            rows = connection.execute(
                "select datname from pg_database where starts_with(datname, %s) union select rolname from pg_roles "
                "where starts_with(rolname, %s)",
                (of.settings.prefix, of.settings.prefix),
            ).fetchall()
        found |= {row[0] for row in rows}
    return found - {f"{of.settings.prefix}_control"}
