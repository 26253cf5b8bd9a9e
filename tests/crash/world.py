"""Checks of the state after a process was killed."""

from __future__ import annotations

import asyncio
import multiprocessing.connection
from collections import Counter
from collections.abc import Iterator
from time import monotonic

import psycopg
import redis as redis_client

from freshdb_service.lifecycle import Isolation
from tests.crash.child import Task, perform
from tests.crash.stories import PATIENCE_SECONDS, STORIES, WHO, Here, Told, rounds, run, url_of
from tests.forked_service import PROCESSES
from tests.integration.installations import Bench, Site, names_on, replica
from tests.integration.installations import site as new_site
from tests.servers import PostgresServer

SETTINGS = {
    "claim_seconds": 2,
    "failed_seconds": 0.2,
    "min_ready": 1,
    "max_size": 2,
    "history_seconds": 0.001,
    "janitor_seconds": 0.2,
}
_SETTLED = {"ready", "leased", "kept"}


async def live_through(
    postgres: PostgresServer, redis_url: str, story: str, isolation: Isolation, last: int | None
) -> int | None:
    """Kill a process at one step of a story, repair, resume, and check that nothing is wrong or left over.

    Returns:
        the number of steps of the story, if it ended before the kill.
    """
    where = new_site([postgres], redis_url, **SETTINGS)
    told, taken = await asyncio.to_thread(_ended, Task(where, story, isolation, last))
    async with replica(where) as bench:
        here = Here(bench, told, where.dsns[0], where.control, _unheard)
        await STORIES[story].resume(here)
        await settled(bench)
        world = World(where, here)
        world.nobody_shares()
        world.leases_reach_their_databases()
        await world.all_can_be_leased_and_is_clean()
        await world.ended_leases_reach_nothing()
        await world.nothing_is_left_over()
    return taken


def _unheard(told: Told) -> None:
    """Ignore the news: no process reads it from this one."""
    del told


def _ended(task: Task) -> tuple[Told, int | None]:
    """Run the task in a process of its own."""
    theirs, ours = PROCESSES.Pipe()
    process = PROCESSES.Process(target=perform, args=(task, theirs))
    process.start()
    theirs.close()
    told, taken = Told(task.isolation), None
    for said in _all(ours):
        if isinstance(said, int):
            taken = said
        elif isinstance(said, Told):
            told = said
    process.join()
    assert process.exitcode == (-9 if taken is None else 0)
    return told, taken


def _all(connection: multiprocessing.connection.Connection) -> Iterator[object]:
    try:
        while True:
            yield connection.recv()
    except (EOFError, ConnectionResetError):
        connection.close()


async def settled(bench: Bench) -> None:
    """Wait until each database is ready, leased or kept."""
    until = monotonic() + PATIENCE_SECONDS
    while True:
        await rounds(bench)
        states = set(await bench.states())
        if states <= _SETTLED:
            return
        assert monotonic() < until, f"still {states}"
        await asyncio.sleep(0.05)


class World:
    """Checks from outside: by SQL in the control plane, with the URLs of holders, and in the catalogs of the servers."""

    def __init__(self, where: Site, here: Here) -> None:
        self._where = where
        self._here = here
        self._bench = here.bench
        self._told = here.told

    def _rows(self, query: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self._where.control) as connection:
            return connection.execute(query).fetchall()

    def nobody_shares(self) -> None:
        """Check that each live lease has one database, and each database at most one live lease."""
        live = self._rows(
            "SELECT l.id, d.id FROM leases l LEFT JOIN databases d ON d.lease_id = l.id AND d.id = l.database_id "
            "AND d.generation = l.generation WHERE l.state IN ('active', 'kept')"
        )
        assert not [lease for lease, database in live if database is None]
        held = Counter(database for _, database in live)
        assert all(number == 1 for number in held.values())
        assert {lease for lease, _ in live} == set(self._told.leases) - self._told.ended

    def leases_reach_their_databases(self) -> None:
        """Check that the URL of each granted lease works until its release."""
        for lease, url in self._told.leases.items():
            if lease not in self._told.ended:
                run(url, "SELECT 1 FROM item")

    async def all_can_be_leased_and_is_clean(self) -> None:
        """Lease every database that the pool may hold, and check that it shows no leftovers of an earlier holder."""
        for lease_id in set(self._told.leases) - self._told.ended:
            await self._bench.leases.release(lease_id, principal=WHO)
            self._told.ended.add(lease_id)
        await settled(self._bench)
        granted = await self._here.acquired(number=2)
        assert len({one.lease.database_id for one in granted}) == 2
        for one in granted:
            url = url_of(one.lease, self._here.dsn)
            self._told.leases[one.lease.id] = url
            with psycopg.connect(url, autocommit=True) as connection:
                tables = connection.execute(
                    "SELECT relname FROM pg_class WHERE relnamespace::regnamespace::text !~ '^(pg_|information)' "
                    "AND relkind = 'r' AND pg_table_is_visible(oid)"
                ).fetchall()
                assert tables == [("item",)]
                assert connection.execute("TABLE item").fetchall() == [(1, "apple")]
                assert connection.execute("SELECT last_value, is_called FROM item_id_seq").fetchall() == [
                    (1, True)
                ]
                connection.execute("INSERT INTO item (name) VALUES (%s)", (str(one.lease.id),))
        for one in granted:
            run(self._told.leases[one.lease.id], "SELECT 1 / (count(*) = 2)::int FROM item")
            await self._bench.leases.release(one.lease.id, principal=WHO)
            self._told.ended.add(one.lease.id)
        await settled(self._bench)

    async def ended_leases_reach_nothing(self) -> None:
        """Check that the URLs of ended leases are refused."""
        for lease in self._told.ended & set(self._told.leases):
            try:
                psycopg.connect(self._told.leases[lease]).close()
            except psycopg.OperationalError:
                continue
            raise AssertionError(f"the URL of the lease {lease} still works")

    async def nothing_is_left_over(self) -> None:
        """Retire the template, and check that no object of freshdb remains anywhere."""
        for template in await self._bench.templates.listing(name=None, state=None, limit=10, after=None):
            await self._bench.templates.retire(str(template.id), force=True)
        until = monotonic() + PATIENCE_SECONDS
        while left := self._left():
            assert monotonic() < until, left
            await rounds(self._bench)
            await asyncio.sleep(0.05)

    def _left(self) -> list[str]:
        rows = [
            f"{table}: {number}"
            for table in ("databases", "leases", "pools", "templates", "baselines")
            for ((number,),) in [self._rows(f"SELECT count(*) FROM {table}")]
            if number
        ]
        assert self._where.settings.redis is not None
        with redis_client.Redis.from_url(self._where.settings.redis.get_secret_value()) as connection:
            keys = [
                key.decode()
                for key in connection.scan_iter(f"{self._bench.at.redis.prefix}*")
                if key.decode().removeprefix(self._bench.at.redis.prefix) not in _THERE_FOR_GOOD
            ]
        return [*rows, *keys, *sorted(names_on(self._where))]


_THERE_FOR_GOOD = {"events", "epoch", "over"}
"""Keys that may remain. ``over`` expires by itself a minute after the last lease."""
