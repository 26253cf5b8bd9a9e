"""Cache of all usable tokens in each replica, so that authentication needs no round trip.

A lookup is one dictionary access by the token's hint and one comparison of digests in constant time. A change is announced
over Redis, and every replica reloads the tokens. A replica that missed the notification reloads them within
``token_refresh_seconds``. It also reloads them before it refuses an unknown token, at most five times per second. A replica
that cannot reach the control plane keeps its cache, but it can grant nothing then. A grant checks the token's row, so an
expired or revoked token gets no lease, even if a cache is old.

An installation that has, or ever had, a token is *closed*: all callers need one, also on loopback. Otherwise revoking the
last token, or its expiry, would open the service to all callers.

The time of a token's last use is written once a minute.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Final, TypeVar
from uuid import UUID

from freshdb_service.auth.token_format import digest_of, hint_of, is_secret
from freshdb_service.auth.tokens import IssuedToken, TokenRegistry, TokenRequest
from freshdb_service.errors import BackendUnavailable, Conflict
from freshdb_service.redis.wakeups import WakeupReason, Wakeups
from freshdb_service.store import tokens as store_tokens
from freshdb_service.store.audit_log import Actor
from freshdb_service.store.connection import Store
from freshdb_service.store.tokens import TokenRow

_RELOAD_SECONDS: Final = 0.2
_NOTE_USE_SECONDS: Final = 60.0
_log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Key:
    """A digest that is valid for a token until an instant of this replica's monotonic clock."""

    digest: bytes = field(repr=False)
    token: TokenRow
    until: float


class TokenCache:
    """Finds tokens by their secret, and notifies all replicas of changes."""

    def __init__(
        self,
        store: Store,
        wakeups: Wakeups,
        *,
        names_in_settings: frozenset[str] = frozenset(),
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.registry = TokenRegistry(store)
        self._store = store
        self._wakeups = wakeups
        self._clock = clock
        self._keys: dict[str, tuple[_Key, ...]] = {}
        self._reading: asyncio.Task[None] | None = None
        self._read_at = -_RELOAD_SECONDS
        self._used: dict[UUID, float] = {}
        self._used_noted_at = clock()
        self._names_in_settings = names_in_settings
        self._warned: set[str] = set()
        self.any_ever = False
        """True if the control plane has, or ever had, a token."""

    @property
    def closed(self) -> bool:
        """True if all callers need a token."""
        return self.any_ever or bool(self._names_in_settings)

    @property
    def any_usable(self) -> bool:
        """True if at least one token is valid now."""
        now = self._clock()
        stored = any(key.until > now for keys in self._keys.values() for key in keys)
        return stored or bool(self._names_in_settings)

    def find(self, secret: str) -> TokenRow | None:
        """Return the token with this secret, if it is in the cache."""
        if not is_secret(secret):
            return None
        digest, now, found = digest_of(secret), self._clock(), None
        for key in self._keys.get(hint_of(secret), ()):
            if hmac.compare_digest(key.digest, digest) and key.until > now:
                found = key.token
        if found is not None:
            self._used[found.id] = now
        return found

    async def reload_and_find(self, secret: str) -> TokenRow | None:
        """Return the token with this secret after a reload that began after this call, because it may be new.

        Concurrent callers share a reload. There is at most one per ``_RELOAD_SECONDS``, so unknown tokens may wait for it.

        Raises:
            BackendUnavailable: the control plane is unavailable.
        """
        if not is_secret(secret):
            return None
        asked_at = self._clock()
        while self._read_at < asked_at:
            pause_seconds = self._read_at + _RELOAD_SECONDS - self._clock()
            if pause_seconds > 0:
                await asyncio.sleep(pause_seconds)
            else:
                await self._reload()
        return self.find(secret)

    async def run_once(self) -> None:
        """One run of the loop: reload the tokens, and once a minute write their last use."""
        await self.refresh()
        if self._clock() - self._used_noted_at >= _NOTE_USE_SECONDS:
            await self.note_used()

    async def refresh(self) -> None:
        """Reload the tokens, by a read that begins after this call.

        Raises:
            BackendUnavailable: the control plane is unavailable. The cache stays as it was.
        """
        if self._reading is not None:  # it may have begun before the change that this call is for
            await asyncio.wait({self._reading})
        await self._reload()

    async def note_used(self) -> None:
        """Write the times of the last use of tokens."""
        used, self._used = self._used, {}
        now = self._used_noted_at = self._clock()
        if not used:
            return
        try:
            async with self._store.statement() as connection:
                await store_tokens.note_used(connection, {one: now - at for one, at in used.items()})
        except BackendUnavailable:
            self._used = used | self._used
            raise

    async def create(self, wanted: TokenRequest, by: Actor) -> IssuedToken:
        """As :meth:`TokenRegistry.create`, effective at once on all replicas.

        Raises:
            Conflict: also if the settings of this replica have a token with this name.
        """
        if wanted.name in self._names_in_settings:
            message = f"the token {wanted.name!r} is in FRESHDB_TOKENS; choose another name"
            raise Conflict(message)
        return await self._announced(self.registry.create(wanted, by))

    async def rotate(self, reference: str, by: Actor, *, grace_seconds: float) -> IssuedToken:
        """As :meth:`TokenRegistry.rotate`, effective at once on all replicas."""
        return await self._announced(self.registry.rotate(reference, by, grace_seconds=grace_seconds))

    async def change(self, reference: str, quotas: Mapping[str, float | int | None], by: Actor) -> TokenRow:
        """As :meth:`TokenRegistry.change`, effective at once on all replicas."""
        return await self._announced(self.registry.change(reference, quotas, by))

    async def revoke(self, reference: str, by: Actor) -> TokenRow:
        """As :meth:`TokenRegistry.revoke`, effective at once on all replicas."""
        return await self._announced(self.registry.revoke(reference, by))

    async def _announced(self, change: Awaitable[T]) -> T:
        """Make a change, reload the tokens, and notify the other replicas."""
        changed = await change
        try:
            await self.refresh()
        except BackendUnavailable as error:  # the change is done, and the loop reloads it later
            _log.warning("a token has changed, but the tokens cannot be reloaded yet: %s", error)
        await self._wakeups.announce(WakeupReason.TOKENS)
        return changed

    async def _reload(self) -> None:
        """Start a reload, or join the one in progress, so that many callers share it."""
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
            self._reading.add_done_callback(self._read_done)
        await asyncio.shield(self._reading)

    async def _read(self) -> None:
        began = self._clock()
        async with self._store.statement() as connection:
            any_ever = await store_tokens.any_ever(connection)
            rows = await store_tokens.usable(connection) if any_ever else []
        keys: dict[str, tuple[_Key, ...]] = {}
        for row in rows:
            for hint, key in _keys_of(row, began):
                keys[hint] = (*keys.get(hint, ()), key)
        self._keys, self.any_ever, self._read_at = keys, any_ever, began
        for name in {row.name for row in rows} & self._names_in_settings - self._warned:
            self._warned.add(name)
            _log.warning(
                "the token %r is in FRESHDB_TOKENS and in the control plane, so both own the same leases; rename one",
                name,
            )

    def _read_done(self, task: asyncio.Task[None]) -> None:
        self._reading = None
        if not task.cancelled():
            task.exception()  # the waiting callers receive it


def _keys_of(row: TokenRow, now: float) -> list[tuple[str, _Key]]:
    shown = replace(row, digest=b"", previous_digest=None)
    end = float("inf") if row.expires_in_seconds is None else now + row.expires_in_seconds
    keys = [(row.hint, _Key(row.digest, shown, end))]
    if (
        row.previous_digest is not None
        and row.previous_hint is not None
        and row.previous_in_seconds is not None
    ):
        until = min(end, now + row.previous_in_seconds)
        keys.append((row.previous_hint, _Key(row.previous_digest, shown, until)))
    return keys
