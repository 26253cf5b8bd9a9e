"""Section ``floor``: the time of a reset, compared with the bare statements that every reset needs.

The floor is a connection and the bare statements in it: with PostgreSQL alone, a database cannot be cleaned for less. The
service keeps sessions inside databases open for the next reset (``cluster.sessions``), and most resets find one. So there
are two kinds of floor, and two of reset:

*kept*  a session that is open already, and has done this before
*new*   a new connection. Before the release, the service's own session is ended, so that the reset must connect, too

The goal applies to both kinds of reset, compared with the floor that includes its connection. A reset in a kept session is
also compared with the bare statements alone. No reset can be faster than the floor of its own kind. If one is, the floor was
measured wrongly, or the reset does some of its work outside its measured time. The section then reports this, and does not
show it as a success.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Self

import asyncpg
import uvloop

from freshdb_service.embedded import EmbeddedPostgres
from tests.benchmarks.client_loop import TOUCHED
from tests.benchmarks.resets import Reset, Resets
from tests.benchmarks.results import Findings, Run, Table, milliseconds, ratio
from tests.benchmarks.running import (
    TABLES,
    acquire,
    data_directory,
    open_pool,
    register,
    release,
    resize,
    serving,
    wait_until_ready,
)
from tests.benchmarks.running import schema as schema_of

GOAL = 1.5
TEMPLATE = "floor"
_SIDES = ("floor", "reset")
_NOT_COUNTED = 3

READ = """
SELECT relname, pg_stat_get_tuples_inserted(oid), pg_stat_get_tuples_updated(oid), pg_stat_get_tuples_deleted(oid),
       CASE relkind WHEN 'S' THEN pg_sequence_last_value(oid) END, relfilenode
FROM pg_class
WHERE pg_stat_get_tuples_inserted(oid) + pg_stat_get_tuples_updated(oid) + pg_stat_get_tuples_deleted(oid) > 0
   OR relkind = 'S' AND pg_sequence_last_value(oid) IS NOT NULL
"""
"""Query for touched tables and sequences. The server evaluates it, and returns only those that have changed."""

SETTINGS = {"track_counts": "off", "session_replication_role": "replica", "stats_fetch_consistency": "none"}
RESET_COUNTERS = """
SELECT pg_stat_reset_single_table_counters(oid) FROM pg_class
WHERE pg_stat_get_tuples_inserted(oid) + pg_stat_get_tuples_updated(oid) + pg_stat_get_tuples_deleted(oid) > 0
"""
END_SERVICE_SESSIONS = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE datname = $1 AND application_name = 'freshdb' AND pid <> pg_backend_pid()
"""


@dataclass(frozen=True, slots=True)
class Effort:
    """Amount of measurement."""

    rounds: int = 12
    pairs: int = 25


QUICK = Effort(rounds=2, pairs=4)


@dataclass(slots=True)
class HandCleanedDatabase:
    """A database that its holder touches and the benchmark cleans by hand, again and again."""

    inside: str
    url: str
    user: str
    verifier: str
    kept: asyncpg.Connection[asyncpg.Record]
    steps: dict[str, list[float]]

    @classmethod
    async def of(cls, superuser: str, lease: dict[str, str]) -> Self:
        """Use the database of a lease, which stays leased."""
        inside = superuser.rpartition("/")[0] + "/" + lease["database"]
        kept = await asyncpg.connect(inside, ssl=False, server_settings=SETTINGS)
        verifier = await kept.fetchval("SELECT rolpassword FROM pg_authid WHERE rolname = $1", lease["user"])
        return cls(inside, lease["url"], lease["user"], verifier, kept, defaultdict(list))

    async def touch(self, touched: list[int]) -> None:
        """Write as a test does. Return when the backend has ended and PostgreSQL has counted its writes."""
        await _touch(self.url, touched)
        await self.wait_for_exit(self.user)

    async def wait_for_exit(self, user: str) -> None:
        """Wait until the holder's backend has ended."""
        query = "SELECT FROM pg_stat_activity WHERE usename = $1"
        while await self.kept.fetchrow(query, user) is not None:
            pass

    async def clean_kept(self, touched: list[int]) -> float:
        """Clean the database in the open session. Return the seconds."""
        taken = await self._clean("kept", self.kept, touched)
        await self.kept.execute(RESET_COUNTERS)
        return taken

    async def clean_new(self, touched: list[int]) -> float:
        """Clean the database in a new session. Return the seconds, without those for closing it."""
        with _timed(self.steps["new: connect"]) as connecting:
            connection = await asyncpg.connect(self.inside, ssl=False, server_settings=SETTINGS)
        taken = connecting[-1] + await self._clean("new", connection, touched)
        await connection.close()
        await self.kept.execute(RESET_COUNTERS)
        return taken

    async def _clean(
        self, kind: str, connection: asyncpg.Connection[asyncpg.Record], touched: list[int]
    ) -> float:
        with _timed(self.steps[f"{kind}: read what was touched"]) as reading:
            found = await connection.fetch(READ)
        missed = {f"t{n}" for n in touched} - {row["relname"] for row in found}
        if missed:
            raise RuntimeError(f"changes that the floor's query did not find: {missed}")
        with _timed(self.steps[f"{kind}: delete, set sequences, store a password"]) as writing:
            await connection.execute(
                "".join(f"DELETE FROM public.t{n}; " for n in touched)
                + "".join(f"SELECT setval('public.t{n}_id_seq', 1, false); " for n in touched)
                + f"UPDATE pg_authid SET rolpassword = '{self.verifier}' WHERE rolname = '{self.user}'"
            )
        return reading[-1] + writing[-1]


def measure(run: Run) -> Findings:
    """Measure a reset and its floor, alternating, on the same server."""
    return uvloop.run(_measure(run, QUICK if run.quick else Effort()))


async def _measure(run: Run, effort: Effort) -> Findings:
    with data_directory() as data:
        server = EmbeddedPostgres(data / "floor")
        superuser = await server.start()
        try:
            return await _measured(run, effort, data, superuser)
        finally:
            await server.stop()


async def _measured(run: Run, effort: Effort, data: Path, superuser: str) -> Findings:
    random_source = random.Random(3)  # noqa: S311 - which tables, nothing secret
    resets: list[Reset] = []
    releases: list[float] = []
    rounds: dict[str, list[float]] = defaultdict(list)
    with serving(data, postgres=superuser) as served, served.client() as client:
        register(client, TEMPLATE, schema_of())
        pool = open_pool(client, TEMPLATE)
        resize(client, pool, 2)
        wait_until_ready(client, pool, 2)
        hand_cleaned = await HandCleanedDatabase.of(superuser, acquire(client, TEMPLATE))
        events = Resets(client)

        async def reset(touched: list[int], *, new: bool) -> float:
            lease = acquire(client, TEMPLATE)
            await _touch(lease["url"], touched)
            await hand_cleaned.wait_for_exit(lease["user"])
            if new:
                await hand_cleaned.kept.fetch(END_SERVICE_SESSIONS, lease["database"])
            events.skip()
            began = perf_counter()
            release(client, lease["id"])
            releases.append(perf_counter() - began)
            resets.append(events.of(lease["database_id"]))
            return resets[-1].seconds

        async def run_turn() -> dict[str, float]:
            touched = random_source.sample(range(TABLES), TOUCHED)
            await hand_cleaned.touch(touched)
            floor_kept = await hand_cleaned.clean_kept(touched)
            await hand_cleaned.touch(touched)
            floor_new = await hand_cleaned.clean_new(touched)
            return {
                "floor, kept": floor_kept,
                "reset, kept": await reset(touched, new=False),
                "floor, new": floor_new,
                "reset, new": await reset(touched, new=True),
            }

        for _ in range(_NOT_COUNTED):
            await run_turn()
        for one in (*hand_cleaned.steps.values(), releases):
            one.clear()
        resets.clear()
        for number in range(effort.rounds):
            turns = [await run_turn() for _ in range(effort.pairs)]
            for what in turns[0]:
                rounds[what].append(median(one[what] for one in turns))
            run.log_progress(
                f"round {number + 1}: " + ", ".join(f"{k} {v[-1] * 1e3:.2f} ms" for k, v in rounds.items())
            )
            run.calibrate()
        await hand_cleaned.kept.close()
    return _findings(effort, hand_cleaned.steps, rounds, resets, releases)


def _findings(
    effort: Effort,
    steps: dict[str, list[float]],
    rounds: dict[str, list[float]],
    resets: list[Reset],
    releases: list[float],
) -> Findings:
    paths = Counter(reset.path for reset in resets)
    figures = {f"{what}.seconds": median(taken) for what, taken in rounds.items()}
    figures |= {f"paths.{path}": float(number) for path, number in paths.items()}
    figures["release.seconds"] = median(releases)
    rows = [[what, milliseconds(median(taken)), ""] for what, taken in steps.items()]
    below_floor = []
    for kind in ("kept", "new"):
        over, text = ratio(rounds[f"reset, {kind}"], rounds[f"floor, {kind}"])
        figures[f"reset/floor, {kind}"] = over
        rows += [
            *(
                [f"**{what}, {kind}**", milliseconds(figures[f"{what}, {kind}.seconds"]), ""]
                for what in _SIDES
            ),
            [f"**reset / floor, {kind}**", text, f"≤ {GOAL}" if kind == "new" else ""],
        ]
        if over < 1:
            below_floor.append(kind)
    over, text = ratio(rounds["reset, kept"], rounds["floor, new"])
    figures["reset, kept/floor, new"] = over
    rows.append(["**reset, kept / floor, new** (a connection and the bare statements)", text, f"≤ {GOAL}"])
    rows.append(["release, measured by its caller", milliseconds(figures["release.seconds"]), ""])
    warning = [
        (
            f"**Invalid measurement: a reset faster than its floor ({', '.join(below_floor)}).** The floor "
            "does more than is needed, or the reset does some of its work outside of the seconds that it reports."
        )
    ]
    return Findings(
        settings=[
            *(warning if below_floor else []),
            (
                f"{effort.rounds} rounds of {effort.pairs} turns. In each, the holder of a database of {TABLES} tables "
                f"writes a row into {TOUCHED} of them and leaves, and the benchmark cleans the database by hand. "
                "The same is done with another database, which the service cleans. Each is done once in an open "
                "session (kept), and once in a session that must be opened (new)."
            ),
            (
                "The floor: one statement that reads the counters, and one message with the deletes, the "
                "sequences and the stored password, whose hash is computed before. For new, a connection "
                "(asyncpg, TCP, SCRAM) before that. No fence, no proof. It begins when the holder's backend has exited."
            ),
            (
                "The reset: the seconds in the service's own event of each reset, from closing the login to the baseline, "
                "with all fencing, proof and the password's hash. It also begins when the holder's backend has exited."
            ),
            f"Paths taken: {', '.join(f'{path} {number}' for path, number in paths.items())}.",
        ],
        tables=[Table(caption="", head=["measurement", "median ms, or ratio", "goal"], rows=rows)],
        figures=figures,
    )


async def _touch(url: str, touched: list[int]) -> None:
    """Write as a test does."""
    connection = await asyncpg.connect(url, ssl=False, statement_cache_size=0)
    await connection.execute("; ".join(f"INSERT INTO t{n} (name) VALUES ('one')" for n in touched))
    await connection.close()


@contextmanager
def _timed(into: list[float]) -> Iterator[list[float]]:
    began = perf_counter()
    yield into
    into.append(perf_counter() - began)
