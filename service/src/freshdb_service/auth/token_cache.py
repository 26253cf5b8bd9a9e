"""Recognises tokens, in memory, on every replica.

Every replica keeps the digests of all usable tokens. A request costs one look into a dictionary by the token's hint and
one comparison in constant time: no round trip. A change is announced over Redis, and every replica reads the tokens anew;
one that did not hear does so within ``token_refresh_seconds``, and before it refuses a token that it does not know (wrong
ones cost the control plane at most five readings in a second). A replica that cannot reach the control plane goes on with
what it knew: it can grant nothing then. A grant itself asks the token's row, so that nothing is granted to a token that is
over, whatever a replica believes.

An installation that has, or ever had, a token is *closed*: everybody needs one, also on loopback. Otherwise revoking the
last one, or letting it expire, would open the service to everybody.

When a token was last used is noted once a minute.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Final
from uuid import UUID

from freshdb_service.auth.token_format import digest_of, hint_of, is_secret
from freshdb_service.auth.tokens import IssuedToken, TokenRegistry, TokenRequest
from freshdb_service.errors import BackendUnavailable, Conflict
from freshdb_service.redis.wakeups import WakeupReason, Wakeups
from freshdb_service.store import tokens as store_tokens
from freshdb_service.store.audit_log import Actor
from freshdb_service.store.connection import Store
from freshdb_service.store.tokens import TokenRow

_LOOK_AGAIN_SECONDS: Final = 0.2
_NOTE_USE_SECONDS: Final = 60.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Key:
    """What opens for a token, until when by this replica's monotonic clock."""

    digest: bytes = field(repr=False)
    token: TokenRow
    until: float


class TokenCache:
    """Recognises tokens, and tells every replica when they change."""

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
        self._read_at = -_LOOK_AGAIN_SECONDS
        self._used: dict[UUID, float] = {}
        self._used_noted_at = clock()
        self._names_in_settings = names_in_settings
        self._warned: set[str] = set()
        self.any_ever = False
        """Whether the installation is closed by a token in the control plane."""

    @property
    def closed(self) -> bool:
        """Whether everybody needs a token."""
        return self.any_ever or bool(self._names_in_settings)

    @property
    def any_usable(self) -> bool:
        """Whether anybody could be let in with a token now."""
        now = self._clock()
        stored = any(key.until > now for keys in self._keys.values() for key in keys)
        return stored or bool(self._names_in_settings)

    def known(self, secret: str) -> TokenRow | None:
        """The token of this secret, as far as this replica knows."""
        if not is_secret(secret):
            return None
        digest, now, found = digest_of(secret), self._clock(), None
        for key in self._keys.get(hint_of(secret), ()):
            if hmac.compare_digest(key.digest, digest) and key.until > now:
                found = key.token
        if found is not None:
            self._used[found.id] = now
        return found

    async def looked_up(self, secret: str) -> TokenRow | None:
        """The token of this secret, by a reading that began after this call: it may have been made a moment ago.

        However many ask, the tokens are read at most every ``_LOOK_AGAIN_SECONDS``; who has a wrong one waits for that.

        Raises:
            BackendUnavailable: the control plane is away, and nobody can say.
        """
        if not is_secret(secret):
            return None
        asked_at = self._clock()
        while self._read_at < asked_at:
            pause_seconds = self._read_at + _LOOK_AGAIN_SECONDS - self._clock()
            if pause_seconds > 0:
                await asyncio.sleep(pause_seconds)
            else:
                await self._reading_under_way()
        return self.known(secret)

    async def run_once(self) -> None:
        """A round of the loop: read the tokens, and note now and then which were used."""
        await self.refresh()
        if self._clock() - self._used_noted_at >= _NOTE_USE_SECONDS:
            await self.note_used()

    async def refresh(self) -> None:
        """Read the tokens anew; the reading begins after this call.

        Raises:
            BackendUnavailable: the control plane is away; what was known stays known.
        """
        if self._reading is not None:  # it may have begun before the change that this call is for
            await asyncio.wait({self._reading})
        await self._reading_under_way()

    async def note_used(self) -> None:
        """Write down when tokens were last used."""
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
        """As :meth:`TokenRegistry.create`, at once on every replica.

        Raises:
            Conflict: also if a token of this name is in the settings of this replica.
        """
        if wanted.name in self._names_in_settings:
            message = f"there is a token {wanted.name!r} in FRESHDB_TOKENS; choose another name"
            raise Conflict(message)
        issued = await self.registry.create(wanted, by)
        await self._changed()
        return issued

    async def rotate(self, reference: str, by: Actor, *, grace_seconds: float) -> IssuedToken:
        """As :meth:`TokenRegistry.rotate`, at once on every replica."""
        issued = await self.registry.rotate(reference, by, grace_seconds=grace_seconds)
        await self._changed()
        return issued

    async def change(self, reference: str, quotas: Mapping[str, float | int | None], by: Actor) -> TokenRow:
        """As :meth:`TokenRegistry.change`, at once on every replica."""
        token = await self.registry.change(reference, quotas, by)
        await self._changed()
        return token

    async def revoke(self, reference: str, by: Actor) -> TokenRow:
        """As :meth:`TokenRegistry.revoke`, at once on every replica."""
        token = await self.registry.revoke(reference, by)
        await self._changed()
        return token

    async def _changed(self) -> None:
        try:
            await self.refresh()
        except BackendUnavailable as error:  # it is done; the loop reads it as soon as it can
            _log.warning("a token has changed, and cannot be read again yet: %s", error)
        await self._wakeups.announce(WakeupReason.TOKENS)

    async def _reading_under_way(self) -> None:
        """Wait for the reading under way, or begin one: of many callers at once, one reads."""
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
                "the token %r is in FRESHDB_TOKENS and in the control plane: both hold the same leases", name
            )

    def _read_done(self, task: asyncio.Task[None]) -> None:
        self._reading = None
        if not task.cancelled():
            task.exception()  # whoever waits has it


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
