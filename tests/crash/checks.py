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
from tests.crash.scenarios import (
    PRINCIPAL,
    SCENARIOS,
    TIMEOUT_SECONDS,
    ClientState,
    Context,
    run,
    run_loops,
    url_of,
)
from tests.forked_service import PROCESSES
from tests.integration.installations import Bench, Installation, names_on, new_installation, replica
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


async def kill_and_check(
    postgres: PostgresServer, redis_url: str, scenario: str, isolation: Isolation, kill_at: int | None
) -> int | None:
    """Kill a process at one step of a scenario, repair, resume, and check that nothing is wrong or left over.

    Returns:
        the number of steps of the scenario, if it ended before the kill.
    """
    installation = new_installation([postgres], redis_url, **SETTINGS)
    client_state, taken = await asyncio.to_thread(
        _run_child, Task(installation, scenario, isolation, kill_at)
    )
    async with replica(installation) as bench:
        context = Context(bench, client_state, installation.dsns[0], installation.control, _ignore)
        await SCENARIOS[scenario].resume(context)
        await wait_until_settled(bench)
        state_checks = StateChecks(installation, context)
        state_checks.check_leases_are_exclusive()
        state_checks.check_urls_work()
        await state_checks.check_all_databases_are_clean()
        await state_checks.check_ended_urls_are_refused()
        await state_checks.check_no_leftovers()
    return taken


def _ignore(client_state: ClientState) -> None:
    """Ignore the state: no parent process reads it."""
    del client_state


def _run_child(task: Task) -> tuple[ClientState, int | None]:
    """Run the task in a process of its own."""
    child_end, parent_end = PROCESSES.Pipe()
    process = PROCESSES.Process(target=perform, args=(task, child_end))
    process.start()
    child_end.close()
    client_state, taken = ClientState(task.isolation), None
    for message in _messages(parent_end):
        if isinstance(message, int):
            taken = message
        elif isinstance(message, ClientState):
            client_state = message
    process.join()
    assert process.exitcode == (-9 if taken is None else 0)
    return client_state, taken


def _messages(connection: multiprocessing.connection.Connection) -> Iterator[object]:
    try:
        while True:
            yield connection.recv()
    except (EOFError, ConnectionResetError):
        connection.close()


async def wait_until_settled(bench: Bench) -> None:
    """Wait until each database is ready, leased or kept."""
    until = monotonic() + TIMEOUT_SECONDS
    while True:
        await run_loops(bench)
        states = set(await bench.states())
        if states <= _SETTLED:
            return
        assert monotonic() < until, f"databases not settled: {states}"
        await asyncio.sleep(0.05)


class StateChecks:
    """Checks from outside: by SQL in the control plane, with the URLs of holders, and in the catalogs of the servers."""

    def __init__(self, installation: Installation, context: Context) -> None:
        self._installation = installation
        self._context = context
        self._bench = context.bench
        self._client_state = context.client_state

    def _rows(self, query: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self._installation.control) as connection:
            return connection.execute(query).fetchall()

    def check_leases_are_exclusive(self) -> None:
        """Check that each live lease has one database, and each database at most one live lease."""
        live = self._rows(
            "SELECT l.id, d.id FROM leases l LEFT JOIN databases d ON d.lease_id = l.id AND d.id = l.database_id "
            "AND d.generation = l.generation WHERE l.state IN ('active', 'kept')"
        )
        assert not [lease for lease, database in live if database is None]
        held = Counter(database for _, database in live)
        assert all(number == 1 for number in held.values())
        assert {lease for lease, _ in live} == set(self._client_state.leases) - self._client_state.ended

    def check_urls_work(self) -> None:
        """Check that the URL of each granted lease works until its release."""
        for lease, url in self._client_state.leases.items():
            if lease not in self._client_state.ended:
                run(url, "SELECT 1 FROM item")

    async def check_all_databases_are_clean(self) -> None:
        """Lease every database that the pool may hold, and check that it shows no leftovers of an earlier holder."""
        for lease_id in set(self._client_state.leases) - self._client_state.ended:
            await self._bench.leases.release(lease_id, principal=PRINCIPAL)
            self._client_state.ended.add(lease_id)
        await wait_until_settled(self._bench)
        granted = await self._context.acquire(number=2)
        assert len({one.lease.database_id for one in granted}) == 2
        for one in granted:
            url = url_of(one.lease, self._context.dsn)
            self._client_state.leases[one.lease.id] = url
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
            run(self._client_state.leases[one.lease.id], "SELECT 1 / (count(*) = 2)::int FROM item")
            await self._bench.leases.release(one.lease.id, principal=PRINCIPAL)
            self._client_state.ended.add(one.lease.id)
        await wait_until_settled(self._bench)

    async def check_ended_urls_are_refused(self) -> None:
        """Check that the URLs of ended leases are refused."""
        for lease in self._client_state.ended & set(self._client_state.leases):
            try:
                psycopg.connect(self._client_state.leases[lease]).close()
            except psycopg.OperationalError:
                continue
            raise AssertionError(f"the URL of the lease {lease} still works")

    async def check_no_leftovers(self) -> None:
        """Retire the template, and check that no object of freshdb remains anywhere."""
        for template in await self._bench.templates.listing(name=None, state=None, limit=10, after=None):
            await self._bench.templates.retire(str(template.id), force=True)
        until = monotonic() + TIMEOUT_SECONDS
        while leftovers := self._leftovers():
            assert monotonic() < until, leftovers
            await run_loops(self._bench)
            await asyncio.sleep(0.05)

    def _leftovers(self) -> list[str]:
        rows = [
            f"{table}: {number}"
            for table in ("databases", "leases", "pools", "templates", "baselines")
            for ((number,),) in [self._rows(f"SELECT count(*) FROM {table}")]
            if number
        ]
        assert self._installation.settings.redis is not None
        with redis_client.Redis.from_url(self._installation.settings.redis.get_secret_value()) as connection:
            keys = [
                key.decode()
                for key in connection.scan_iter(f"{self._bench.at.redis.prefix}*")
                if key.decode().removeprefix(self._bench.at.redis.prefix) not in _PERMANENT_KEYS
            ]
        return [*rows, *keys, *sorted(names_on(self._installation))]


_PERMANENT_KEYS = {"events", "epoch", "over"}
"""Keys that may remain. ``over`` expires by itself a minute after the last lease."""
