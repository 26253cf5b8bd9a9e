"""Deadlines of leases. A heartbeat uses only these.

A deadline is written *before* its lease is granted, so that no lease is without one. If the lease is then not granted, the
caller or the reaper removes the deadline. Redis loses everything when it restarts empty, and may be out of date after a
restart from a snapshot or a failover. Therefore the *epoch* key names the run of Redis in which the deadlines were
written. After a change of run, no lease expires and no heartbeat is answered from Redis until a replica has restored the
deadlines. A Redis that returns in its state before a failover has its own run in the key, but is out of date. Therefore
each replica also remembers the last run.

A restored deadline is a full TTL from now. It must never be earlier than the granted one. Therefore a heartbeat that asks
for more than the lease's TTL is refused (``LONGER``) until the control plane has stored the longer TTL (``extend_ttl``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import cast
from uuid import UUID

from freshdb_service.errors import BackendUnavailable
from freshdb_service.redis.connection import RedisConnection, translated

_CHUNK = 500
_TAKEN_AGAIN_MS = 5_000
_OVER_MS = 60_000
"""Time for which ended leases are remembered. A replica must need less time to restore deadlines."""


@dataclass(frozen=True, slots=True)
class Admission:
    """The result of ``admit``."""

    admitted: bool
    ticket: int
    """The instant of the request in microseconds of Redis's clock, which is the place in the queue."""
    expires_at: datetime
    waiting: int
    """Number of callers that wait already, if the caller is not admitted."""


@dataclass(frozen=True, slots=True)
class Renewal:
    """The result of a heartbeat."""

    ttl_seconds: float
    expires_at: datetime
    max_expires_at: datetime
    left_seconds: float
    """The part of the TTL that was left before the heartbeat."""


class Refusal(Enum):
    """The reason why a heartbeat was refused."""

    UNKNOWN = 0
    FOREIGN = -1
    OVER = -2
    LONGER = -3
    FORGOTTEN = -4


@dataclass(frozen=True, slots=True)
class Deadline:
    """The data of a lease from which its deadline is restored."""

    lease_id: UUID
    principal: str
    ttl_seconds: float
    remaining_seconds: float


@dataclass(frozen=True, slots=True)
class DueLeases:
    """The leases whose deadline has passed, or the new run of Redis whose deadlines must be restored first."""

    lease_ids: list[UUID]
    forgotten_in_run: str | None


@dataclass(frozen=True, slots=True)
class _Beat:
    """A heartbeat that waits for its answer."""

    lease_id: str
    ttl_ms: int
    principal: str
    answer: asyncio.Future[list[str]]


class Deadlines:
    """The deadlines of all leases of this installation."""

    def __init__(self, redis: RedisConnection) -> None:
        self._redis = redis
        self._deadlines = redis.key("deadlines")
        self._limits = redis.key("limits")
        self._expiring = redis.key("expiring")
        self._epoch = redis.key("epoch")
        self._over = redis.key("over")
        self._beats: list[_Beat] = []
        self._beating: asyncio.Task[None] | None = None
        self._run_id = ""

    async def admit(
        self,
        pool_id: UUID,
        lease_ids: Sequence[UUID],
        *,
        ttl_seconds: float,
        max_ttl_seconds: float,
        principal: str,
        at_head: bool = False,
    ) -> Admission:
        """Write the deadlines of leases that are about to be granted, unless other callers wait for this pool.

        With ``at_head``, the caller is the first waiter, and the queue is not checked.
        """
        answer = await self._redis.run(
            "deadline_admit",
            [
                self._redis.key("queue", pool_id),
                self._redis.key("presence", pool_id),
                self._deadlines,
                self._limits,
                self._redis.key("wanted", pool_id),
                self._redis.key("who", pool_id),
            ],
            [_ms(ttl_seconds), _ms(max_ttl_seconds), principal, int(at_head), *map(str, lease_ids)],
        )
        admitted, ticket, deadline, waiting = cast("list[str]", answer)
        return Admission(bool(int(admitted)), int(ticket), _instant(deadline), int(waiting))

    async def settle(self, lease_ids: Sequence[UUID], *, over: bool = False) -> None:
        """Remove the deadlines of leases that have ended (``over``) or were never granted."""
        for start in range(0, len(lease_ids), _CHUNK):
            some = [str(one) for one in lease_ids[start : start + _CHUNK]]
            keys = [self._deadlines, self._limits, self._expiring, self._over]
            await self._redis.run("deadline_settle", keys, [_OVER_MS if over else 0, *some])

    async def renew(
        self, lease_id: UUID, *, ttl_seconds: float | None, principal: str | None
    ) -> Renewal | Refusal:
        """Extend a deadline, up to the lease's limit. It never becomes earlier.

        Heartbeats that arrive during a call to Redis are sent together in the next call. The more there are, the less each
        of them costs, and many heartbeats do not delay each other.
        """
        answer: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        self._beats.append(_Beat(str(lease_id), _ms(ttl_seconds or 0), principal or "", answer))
        if self._beating is None:
            self._beating = asyncio.create_task(self._beat())
        words = await answer
        if int(words[0]) != 1:
            return Refusal(int(words[0]))
        return Renewal(
            int(words[1]) / 1000, _instant(words[2]), _instant(words[3]), left_seconds=int(words[4]) / 1000
        )

    async def _beat(self) -> None:
        """Send heartbeats until none is left."""
        try:
            while self._beats:
                beats, self._beats = self._beats[:_CHUNK], self._beats[_CHUNK:]
                await self._send(beats)
        finally:
            self._beating = None

    async def _send(self, beats: list[_Beat]) -> None:
        arguments = [word for beat in beats for word in (beat.lease_id, beat.ttl_ms, beat.principal)]
        try:
            keys = [self._deadlines, self._limits, self._epoch]
            answers = await self._redis.run("deadline_renew", keys, [self._run_id, *arguments])
        except BaseException as error:
            for beat in beats:
                if not beat.answer.done():
                    beat.answer.set_exception(_failure(error))
            if not isinstance(error, Exception):
                raise
            return
        for beat, words in zip(beats, cast("list[list[str]]", answers), strict=True):
            if not beat.answer.done():  # the caller may have gone
                beat.answer.set_result(words)

    async def extend_ttl(self, lease_id: UUID, *, ttl_seconds: float) -> None:
        """Extend the TTL of a lease, after the control plane has stored it."""
        await self._redis.run("deadline_lengthen", [self._limits], [str(lease_id), _ms(ttl_seconds)])

    async def prolong(self, lease_id: UUID, *, ttl_seconds: float) -> None:
        """Set the deadline of a kept lease, and extend its limit to it."""
        await self._redis.run(
            "deadline_keep", [self._deadlines, self._limits], [str(lease_id), _ms(ttl_seconds)]
        )

    async def expiry(self, lease_ids: Sequence[UUID]) -> list[datetime | None]:
        """Return the deadlines of leases. ``None`` for those that Redis does not have."""
        if not lease_ids:
            return []
        async with translated():
            scores = await self._redis.client.execute_command(  # type: ignore[no-untyped-call]
                "ZMSCORE", self._deadlines, *map(str, lease_ids)
            )
        return [None if score is None else _instant(score) for score in scores]

    async def noted(self) -> set[UUID]:
        """Return every lease that has a deadline."""
        async with translated():
            return {UUID(str(one)) for one in await self._redis.client.hkeys(self._limits)}

    async def due(self, most: int = 500) -> DueLeases:
        """Take the leases whose deadline has passed. The caller must end and settle them."""
        answer = await self._redis.run(
            "deadline_expire",
            [self._deadlines, self._expiring, self._epoch],
            [most, _TAKEN_AGAIN_MS, self._run_id],
        )
        flag, run_id, *lease_ids = cast("list[str]", answer)
        if flag == "1":
            self._run_id = run_id
        return DueLeases([UUID(one) for one in lease_ids], run_id if flag == "0" else None)

    async def hand_on(self, lease_ids: Sequence[UUID]) -> None:
        """Return leases that could not be ended, for the next call of ``due``.

        Leases whose deadlines were restored in the meantime are left unchanged.
        """
        if not lease_ids:
            return
        async with translated():
            await self._redis.client.zadd(self._expiring, {str(one): 0 for one in lease_ids}, xx=True)

    async def forgotten_in_run(self) -> str | None:
        """Return the new run of Redis if its deadlines must be restored."""
        return (await self.due(most=0)).forgotten_in_run

    async def restore(self, entries: Iterable[Deadline], *, run_id: str | None) -> int:
        """Give leases a full TTL again, except those that were settled lately.

        Args:
            entries: the live leases.
            run_id: the new run of Redis. All deadlines are written, and then the run is stored. With ``None``, only missing
                deadlines are written.

        Returns:
            The number of written deadlines.
        """
        everything = list(entries)
        chunks = [everything[i : i + _CHUNK] for i in range(0, len(everything), _CHUNK)] or [[]]
        written = 0
        for number, chunk in enumerate(chunks, start=1):
            arguments: list[str | int] = [
                run_id if run_id is not None and number == len(chunks) else "",
                int(run_id is not None),
            ]
            for one in chunk:
                arguments += [
                    str(one.lease_id),
                    _ms(one.ttl_seconds),
                    _ms(one.remaining_seconds),
                    one.principal,
                ]
            keys = [self._deadlines, self._limits, self._epoch, self._expiring, self._over]
            written += int(cast("int", await self._redis.run("deadline_restore", keys, arguments)))
        if run_id is not None:
            self._run_id = run_id
        return written


def _failure(error: BaseException) -> Exception:
    """Create the exception of one heartbeat. Each needs its own, because it collects the traceback of its task."""
    if isinstance(error, BackendUnavailable):
        return BackendUnavailable(error.message, retry_after_seconds=error.retry_after_seconds)
    if isinstance(error, Exception):
        return RuntimeError(f"heartbeats could not be sent: {error!r}")
    return BackendUnavailable("this replica is stopping; ask again", retry_after_seconds=1.0)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _instant(milliseconds: str | float) -> datetime:
    return datetime.fromtimestamp(float(milliseconds) / 1000, UTC)
