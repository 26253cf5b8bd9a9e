"""The audit log of one replica, and the buffer for its frequent actions.

The transaction that changes a row also writes the entry (:mod:`freshdb_service.store.audit_log`). Heartbeats and refusals
change no row, and there may be hundreds per second, so they are buffered. Equal ones (same action, object, principal and
client address) become one entry with a count and the instants of the first and the last. The buffer is written every
``trail_flush_seconds`` and when the replica stops. A killed replica loses the buffered heartbeats and refusals only.

While the control plane is unavailable, the buffer keeps its actions. It holds at most ``MOST`` different ones. Half of them
are reserved for known callers, so that unknown ones cannot fill it. Further actions are dropped, and a warning has their
number.
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
    """Count of equal actions, and instants of the first and the last (monotonic seconds)."""

    count: int
    first: float
    last: float


class AuditLog:
    """Writes and reads the audit log of the installation."""

    def __init__(self, store: Store, *, clock: Callable[[], float] = monotonic) -> None:
        self._store = store
        self._clock = clock
        self._collected: dict[_Key, _Tally] = {}
        self._dropped = 0

    def collect(
        self, action: str, by: Actor, *, subject: UUID | None = None, label: str | None = None
    ) -> None:
        """Buffer an action that changes no row, without waiting."""
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
        """Write the buffered actions. Those that could not be written stay in the buffer.

        Raises:
            BackendUnavailable: the control plane is unavailable.
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
                "%d heartbeats or refusals are missing in the audit log, because its buffer was full",
                self._dropped,
            )
            self._dropped = 0

    async def listing(
        self, wanted: AuditFilter, *, limit: int, before: tuple[datetime, UUID] | None
    ) -> list[AuditRow]:
        """Return entries, newest first."""
        async with self._store.statement() as connection:
            return await store_trail.listing(connection, wanted, limit=limit, before=before)

    async def prune(self, older_than_seconds: float) -> int:
        """Delete a batch of entries older than this, and return their number."""
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
