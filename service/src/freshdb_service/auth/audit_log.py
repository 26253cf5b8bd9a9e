"""The audit log, from the side of those who act: what is written down as it is done, and what is collected first.

A change of a row is recorded by the transaction that makes it (:mod:`freshdb_service.store.audit_log`). Heartbeats change no
row, and there may be hundreds in a second; nor does a refusal. They are collected here: what is alike (the same deed to the
same thing, by the same principal, from the same address) is one record with a count and the instants of the first and the
last, written every ``trail_flush_seconds`` and when the replica stops. A replica that is killed takes the heartbeats and
refusals of that time with it, and nothing else.

While the control plane is away, what is collected waits for it. At most ``MOST`` different things wait (half as many of
callers whom nobody knows: they crowd nobody out); others are counted, and the log says how many were not recorded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from typing import Final
from uuid import UUID

from freshdb_service.errors import BackendUnavailable
from freshdb_service.store import audit_log as store_trail
from freshdb_service.store.audit_log import Actor, AuditAction, AuditFilter, AuditRow, RepeatedActions
from freshdb_service.store.connection import Store

MOST: Final = 10_000
_AT_ONCE: Final = 1_000
_log = logging.getLogger(__name__)

_Key = tuple[str, str | None, str | None, UUID | None, str | None]


@dataclass(slots=True)
class _Tally:
    """How often, and when (monotonic seconds)."""

    count: int
    first: float
    last: float


class AuditLog:
    """The audit trail of this installation, as one replica writes and reads it."""

    def __init__(self, store: Store, *, clock: Callable[[], float] = monotonic) -> None:
        self._store = store
        self._clock = clock
        self._collected: dict[_Key, _Tally] = {}
        self._dropped = 0

    def collect(
        self, action: str, by: Actor, *, subject: UUID | None = None, label: str | None = None
    ) -> None:
        """Note something that changes no row; returns at once."""
        now = self._clock()
        key = (action, by.principal, by.address, subject, label)
        tally = self._collected.get(key)
        if tally is not None:
            tally.count += 1
            tally.last = now
        elif len(self._collected) < (MOST // 2 if by.principal is None else MOST):
            self._collected[key] = _Tally(1, now, now)
        else:
            self._dropped += 1

    async def flush(self) -> None:
        """Write what was collected; what cannot be written waits.

        Raises:
            BackendUnavailable: the control plane is away.
        """
        while self._collected:
            some = dict(list(self._collected.items())[:_AT_ONCE])
            for key in some:
                del self._collected[key]
            try:
                async with self._store.statement() as connection:
                    await store_trail.record_seen(connection, self._seen(some))
            except BackendUnavailable:
                self._put_back(some)
                raise
        if self._dropped:
            _log.warning(
                "%d heartbeats or refusals are not in the audit trail: too many at once", self._dropped
            )
            self._dropped = 0

    async def listing(
        self, wanted: AuditFilter, *, limit: int, before: tuple[datetime, UUID] | None
    ) -> list[AuditRow]:
        """Records, the newest first."""
        async with self._store.statement() as connection:
            return await store_trail.listing(connection, wanted, limit=limit, before=before)

    async def prune(self, older_than_seconds: float) -> int:
        """Forget records older than this, some at a time; returns how many."""
        async with self._store.statement() as connection:
            return await store_trail.prune(connection, older_than_seconds)

    def _seen(self, some: dict[_Key, _Tally]) -> list[RepeatedActions]:
        now = self._clock()
        return [
            RepeatedActions(
                AuditAction(action, Actor(principal, address), subject, label),
                tally.count,
                first_seconds=now - tally.first,
                last_seconds=now - tally.last,
            )
            for (action, principal, address, subject, label), tally in some.items()
        ]

    def _put_back(self, some: dict[_Key, _Tally]) -> None:
        for key, tally in some.items():
            since = self._collected.get(key)
            if since is None:
                self._collected[key] = tally
            else:
                since.count += tally.count
                since.first = tally.first
