"""Holders that work as a CI fleet does, and record each action. A seed chooses the actions, so that a run can be repeated.

Each holder acquires, writes a mark into its database, reads it back, and releases. Some hold a lease for long and renew it,
some vanish and let their lease expire, some leave a transaction open, some use their URL again after the release.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Final, Literal, TypeVar
from uuid import uuid4

import asyncpg

from freshdb import AsyncClient, FreshdbError, Lease
from tests.soak.checker import DEAD_SECONDS
from tests.soak.history import OK, History, Kind, Op

TEMPLATE_SQL: Final = (
    "CREATE TABLE mark (id serial PRIMARY KEY, who text NOT NULL); "
    "CREATE TABLE child (id serial PRIMARY KEY, mark_id integer REFERENCES mark); "
    "CREATE TABLE fruit (name text PRIMARY KEY); INSERT INTO fruit VALUES ('apple'), ('pear')"
)
TTL_SECONDS: Final = 6.0
WAIT_SECONDS: Final = 60.0
QUERY_SECONDS: Final = 5.0
RETRY_SECONDS: Final = 60.0
LEASES_OF_ONE_CLIENT: Final = 20
"""A client stays with the replica that answered it. Without new clients, the killed replicas would soon have none."""
ASYNCPG_ERRORS: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""asyncpg raises InternalClientError for a backend that ended at an unlucky moment."""

Isolation = Literal["database", "schema"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Pool:
    """A template and an isolation."""

    template: str
    isolation: Isolation

    def __str__(self) -> str:
        return f"{self.template}/{self.isolation}"


@dataclass(slots=True)
class Holder:
    """One holder."""

    number: int
    urls: Sequence[str]
    """URLs of the replicas. Each client tries them in a random order."""
    history: History
    random_source: random.Random
    pools: Sequence[Pool]
    stopping: asyncio.Event
    left_open: list[asyncpg.Connection[asyncpg.Record]] = field(default_factory=list)
    reconnects: list[asyncio.Task[None]] = field(default_factory=list)
    released: int = 0
    client: AsyncClient = field(init=False)

    async def run(self) -> None:
        """Acquire, hold and release one lease after another until ``stopping`` is set."""
        while not self.stopping.is_set():
            urls = self.random_source.sample(self.urls, len(self.urls))
            async with AsyncClient(urls, retry_seconds=RETRY_SECONDS) as self.client:
                await self._run_with_one_client()
        for connection in self.left_open:
            connection.terminate()
        for reconnect_task in self.reconnects:
            reconnect_task.cancel()
        await asyncio.gather(*self.reconnects, return_exceptions=True)

    async def _run_with_one_client(self) -> None:
        for _ in range(LEASES_OF_ONE_CLIENT):
            if self.stopping.is_set():
                return
            lease = await self._acquire(self.random_source.choice(self.pools))
            if lease is None:
                await asyncio.sleep(0.1)
            else:
                await self._use(lease)

    async def _acquire(self, pool: Pool) -> Lease | None:
        answer, op = await self._timed(
            lambda: self.client.acquire(
                pool.template,
                isolation=pool.isolation,
                ttl_seconds=TTL_SECONDS,
                wait_seconds=WAIT_SECONDS,
                holder={"name": f"holder {self.number}"},
                idempotency_key=str(uuid4()),
            ),
        )
        if answer is None:
            self.history.ops.append(Op(Kind.ACQUIRE, "", *op, pool=str(pool)))
            return None
        database = f"{answer.server}/{answer.credentials().database}/{answer.schema or ''}"
        self.history.ops.append(
            Op(
                Kind.ACQUIRE,
                answer.id,
                *op,
                database=database,
                pool=str(pool),
                until=_until(answer.expires_at),
            )
        )
        return answer

    async def _use(self, lease: Lease) -> None:
        await self._query(lease, 1)
        action = self.random_source.random()
        if 0.1 < action < 0.14:  # for longer than the TTL
            until = monotonic() + TTL_SECONDS * 1.5
            number = 1
            while monotonic() < until and not self.stopping.is_set():
                await asyncio.sleep(TTL_SECONDS / 3)
                await self._renew(lease)
                await self._query(lease, number := number + 1)
        elif action > 0.98:  # vanishes
            self.reconnects.append(asyncio.create_task(self._reconnect_after_expiry(lease)))
            return
        elif action < 0.02:
            await self._leave_open(lease)
        elif action < 0.5:
            await asyncio.sleep(self.random_source.uniform(0, 0.05))
            await self._query(lease, 2)
        _, op = await self._timed(lambda: self.client.release(lease.id))
        self.history.ops.append(Op(Kind.RELEASE, lease.id, *op))
        self.released += 1
        if self.random_source.random() < 0.05:
            await self._reconnect(lease)

    async def _renew(self, lease: Lease) -> None:
        answer, op = await self._timed(lambda: self.client.renew(lease.id, ttl_seconds=TTL_SECONDS))
        until = 0.0 if answer is None else _until(answer.expires_at)
        self.history.ops.append(Op(Kind.RENEW, lease.id, *op, until=until))

    async def _query(self, lease: Lease, number: int) -> None:
        mark = f"{lease.id} {number}"
        seen: tuple[str, ...] = ()

        async def query() -> tuple[str, ...]:
            connection = await asyncpg.connect(
                lease.url, timeout=QUERY_SECONDS, command_timeout=QUERY_SECONDS, statement_cache_size=0
            )
            try:
                found = tuple(
                    row["who"] for row in await connection.fetch("SELECT who FROM mark ORDER BY id")
                )
                await self._write(connection, mark)
            finally:
                await connection.close(timeout=QUERY_SECONDS)
            return found

        answer, op = await self._timed(query)
        if answer is not None:
            seen = answer
        self.history.ops.append(Op(Kind.QUERY, lease.id, *op, seen=seen, wrote=mark))

    async def _write(self, connection: asyncpg.Connection[asyncpg.Record], mark: str) -> None:
        await connection.execute("INSERT INTO mark (who) VALUES ($1)", mark)
        action = self.random_source.random()
        if action < 0.3:
            await connection.execute("INSERT INTO child (mark_id) SELECT max(id) FROM mark")
        elif action < 0.4:
            await connection.execute("UPDATE fruit SET name = upper(name)")
        elif action < 0.43:
            await connection.execute("CREATE TABLE IF NOT EXISTS mine (a integer)")

    async def _leave_open(self, lease: Lease) -> None:
        """Leave a transaction open that holds a lock."""
        with suppress(*ASYNCPG_ERRORS, OSError, TimeoutError):
            connection = await asyncpg.connect(lease.url, timeout=QUERY_SECONDS)
            self.left_open.append(connection)
            await connection.execute("BEGIN; INSERT INTO mark (who) VALUES ('uncommitted'); LOCK TABLE mark")

    async def _reconnect(self, lease: Lease) -> None:
        async def connect() -> bool:
            connection = await asyncpg.connect(lease.url, timeout=QUERY_SECONDS)
            await connection.close(timeout=QUERY_SECONDS)
            return True

        _, op = await self._timed(connect)
        self.history.ops.append(Op(Kind.RECONNECT, lease.id, *op))

    async def _reconnect_after_expiry(self, lease: Lease) -> None:
        """Use the URL so long after the lease's end that it must be refused, whatever faults happened."""
        await asyncio.sleep(TTL_SECONDS + DEAD_SECONDS + 1)
        await self._reconnect(lease)

    async def _timed(self, call: Callable[[], Awaitable[T]]) -> tuple[T | None, tuple[float, float, str]]:
        """Return the answer, and the time of the request, the time of the answer and the outcome."""
        began = monotonic()
        try:
            answer: T | None = await call()
            outcome = OK
        except (FreshdbError, *ASYNCPG_ERRORS, OSError, TimeoutError) as error:
            answer, outcome = None, code_of(error)
        return answer, (began, monotonic(), outcome)


def _until(expires_at: datetime | None) -> float:
    """Convert an instant of the service's clock, which is this machine's, to the monotonic clock of the history."""
    left = 0.0 if expires_at is None else (expires_at - datetime.now(UTC)).total_seconds()
    return monotonic() + left


def code_of(error: Exception) -> str:
    """Return the error's code, or the name of its class."""
    code: Any = getattr(error, "code", None) or getattr(error, "sqlstate", None)
    return str(code or type(error).__name__)
