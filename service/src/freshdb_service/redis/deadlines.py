"""When leases end. Heartbeats touch this and nothing else.

A deadline is written *before* its lease is granted, so that no lease is ever without one; a deadline whose lease never
came to be is settled by the caller, or by the reaper. Redis loses everything when it restarts empty, and may be out of
date when it restarts from a snapshot or fails over: the *epoch* key names the run of Redis that the deadlines were written
to, and until somebody has restored them after a change of run, no lease expires, and no heartbeat is answered by what Redis
believes. One that comes back as it was before a
failover names itself, and is wrong all the same: so each replica also remembers the run that it spoke with last.

What is restored is a full TTL from now. So that this is never less than what was granted, a heartbeat that asks for more
than the lease's own TTL is refused here until the control plane has noted that (``LONGER``, ``lengthen``).
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
"""For so long it is remembered that a lease is over: longer than anybody takes who looked at the control plane, to restore
deadlines."""


@dataclass(frozen=True, slots=True)
class Admission:
    """The answer to "may I have one now?"."""

    admitted: bool
    ticket: int
    """The instant of asking, in microseconds of Redis's clock: the place in the queue."""
    expires_at: datetime
    waiting: int
    """How many callers were here before, when it is not admitted."""


@dataclass(frozen=True, slots=True)
class Renewal:
    """What a heartbeat was granted."""

    ttl_seconds: float
    expires_at: datetime
    max_expires_at: datetime
    left_seconds: float
    """What was left of the TTL before it."""


class Refusal(Enum):
    """Why a heartbeat was not granted."""

    UNKNOWN = 0
    FOREIGN = -1
    OVER = -2
    LONGER = -3
    FORGOTTEN = -4


@dataclass(frozen=True, slots=True)
class Deadline:
    """What has to be written again after Redis forgot."""

    lease_id: UUID
    principal: str
    ttl_seconds: float
    remaining_seconds: float


@dataclass(frozen=True, slots=True)
class DueLeases:
    """The leases that are over; or, when Redis has started anew since, the run that needs its deadlines back."""

    lease_ids: list[UUID]
    forgotten_in_run: str | None


@dataclass(frozen=True, slots=True)
class _Beat:
    """A heartbeat on its way to Redis."""

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
        """Write the deadlines of leases that are about to be granted, unless others wait for this pool.

        ``at_head`` is for the waiter whose turn it is.
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
        """Forget leases that are ``over``, or were never granted."""
        for start in range(0, len(lease_ids), _CHUNK):
            some = [str(one) for one in lease_ids[start : start + _CHUNK]]
            keys = [self._deadlines, self._limits, self._expiring, self._over]
            await self._redis.run("deadline_settle", keys, [_OVER_MS if over else 0, *some])

    async def renew(
        self, lease_id: UUID, *, ttl_seconds: float | None, principal: str | None
    ) -> Renewal | Refusal:
        """Move a deadline; never past the lease's limit, never closer.

        Heartbeats that come while others are on their way go together in the next call: the more there are, the less each
        costs, and none is late because there are many.
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
        """Send heartbeats until there are none."""
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
            if not beat.answer.done():  # whoever asked may have gone
                beat.answer.set_result(words)

    async def lengthen(self, lease_id: UUID, *, ttl_seconds: float) -> None:
        """Give a lease a longer TTL of its own; the control plane has noted it."""
        await self._redis.run("deadline_lengthen", [self._limits], [str(lease_id), _ms(ttl_seconds)])

    async def prolong(self, lease_id: UUID, *, ttl_seconds: float) -> None:
        """Give a lease that is kept for a look a deadline of its own, and a limit that admits it."""
        await self._redis.run(
            "deadline_keep", [self._deadlines, self._limits], [str(lease_id), _ms(ttl_seconds)]
        )

    async def expiry(self, lease_ids: Sequence[UUID]) -> list[datetime | None]:
        """When these leases end, as far as is known here."""
        if not lease_ids:
            return []
        async with translated():
            scores = await self._redis.client.execute_command(  # type: ignore[no-untyped-call]
                "ZMSCORE", self._deadlines, *map(str, lease_ids)
            )
        return [None if score is None else _instant(score) for score in scores]

    async def noted(self) -> set[UUID]:
        """Every lease that anything is known of here."""
        async with translated():
            return {UUID(str(one)) for one in await self._redis.client.hkeys(self._limits)}

    async def due(self, most: int = 500) -> DueLeases:
        """Take the leases whose deadline has passed; whoever takes them ends and settles them."""
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
        """Let whoever asks next what is due have these, which could not be ended now.

        Those that have got their deadlines back meanwhile are left as they are.
        """
        if not lease_ids:
            return
        async with translated():
            await self._redis.client.zadd(self._expiring, {str(one): 0 for one in lease_ids}, xx=True)

    async def forgotten_in_run(self) -> str | None:
        """The run of Redis that needs its deadlines back, if it does."""
        return (await self.due(most=0)).forgotten_in_run

    async def restore(self, entries: Iterable[Deadline], *, run_id: str | None) -> int:
        """Give leases their full TTL again, but for those that were settled lately.

        Args:
            entries: the live leases.
            run_id: the run of Redis that had forgotten them: all are written, and the run noted when all is done. With
                ``None`` only those are written that have no deadline.

        Returns:
            How many deadlines were written.
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
    """Why a heartbeat was not sent: an exception of its own for each, since each gathers the traceback of its task."""
    if isinstance(error, BackendUnavailable):
        return BackendUnavailable(error.message, retry_after_seconds=error.retry_after_seconds)
    if isinstance(error, Exception):
        return RuntimeError(f"heartbeats could not be sent: {error!r}")
    return BackendUnavailable("this replica is stopping; ask again", retry_after_seconds=1.0)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _instant(milliseconds: str | float) -> datetime:
    return datetime.fromtimestamp(float(milliseconds) / 1000, UTC)
