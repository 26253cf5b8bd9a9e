"""A lease while it is held: renewed in the background, and loud when it is lost.

After a fork the child can use the database as long as the parent holds the lease; it neither renews nor releases it,
and does not hear of a loss.
"""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING, Protocol

from freshdb.credentials import Connectable, Credentials
from freshdb.errors import LeaseEnded, LeaseLost, LeaseNotFound
from freshdb.models import DEFAULT_KEEP_SECONDS, Lease, Leftovers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from freshdb.errors import ServiceError
    from freshdb.heartbeat import Heartbeat


class Release(Protocol):
    """Gives a database back."""

    def __call__(self, lease_id: str) -> Leftovers | None:
        """Do it."""


class Keep(Protocol):
    """Holds a database back for a look."""

    def __call__(self, lease_id: str, *, ttl_seconds: float, reason: str | None) -> Lease:
        """Do it."""


class Reset(Protocol):
    """Makes a database clean in place."""

    def __call__(self, lease_id: str) -> Lease:
        """Do it."""


class AsyncRelease(Protocol):
    """Gives a database back."""

    def __call__(self, lease_id: str) -> Awaitable[Leftovers | None]:
        """Do it."""


class AsyncKeep(Protocol):
    """Holds a database back for a look."""

    def __call__(self, lease_id: str, *, ttl_seconds: float, reason: str | None) -> Awaitable[Lease]:
        """Do it."""


class AsyncReset(Protocol):
    """Makes a database clean in place."""

    def __call__(self, lease_id: str) -> Awaitable[Lease]:
        """Do it."""


class HeldLeaseBase(Connectable):
    """What both kinds have in common; made by ``Client.lease`` and ``AsyncClient.lease``."""

    def __init__(self, lease: Lease, on_lost: Callable[[LeaseLost], None] | None) -> None:
        self._lease = lease
        self._on_lost = on_lost
        self._beat: Heartbeat | None = None
        self._ended: str | None = None
        self._pid = os.getpid()

    def __repr__(self) -> str:
        """Without the password."""
        return f"<{type(self).__name__} {self._lease!r}>"

    @property
    def lease(self) -> Lease:
        """The record, as of when it was acquired, or last reset."""
        return self._lease

    @property
    def id(self) -> str:
        """The lease's id."""
        return self._lease.id

    @property
    def template(self) -> str:
        """``name@fingerprint``."""
        return self._lease.template

    @property
    def template_id(self) -> str:
        """The template's id."""
        return self._lease.template_id

    @property
    def isolation(self) -> str:
        """``database`` or ``schema``."""
        return self._lease.isolation

    @property
    def server(self) -> str:
        """Name of the PostgreSQL server."""
        return self._lease.server

    @property
    def host(self) -> str:
        """Host of the PostgreSQL server."""
        return self.credentials().host

    @property
    def port(self) -> int:
        """Port of the PostgreSQL server."""
        return self.credentials().port

    @property
    def database(self) -> str:
        """Name of the database."""
        return self.credentials().database

    @property
    def schema(self) -> str | None:
        """Name of the schema, with isolation ``schema``."""
        return self._lease.schema

    @property
    def user(self) -> str:
        """The login."""
        return self.credentials().user

    @property
    def password(self) -> str:
        """Its password."""
        return self.credentials().password

    @property
    def loss(self) -> LeaseLost | None:
        """Why it was lost, if it was."""
        reason = None if self._beat is None or self.inherited else self._beat.look()
        return None if reason is None else LeaseLost(self.id, reason)

    @property
    def ended(self) -> bool:
        """Whether it was released or kept on purpose."""
        return self._ended is not None

    @property
    def inherited(self) -> bool:
        """Whether this is a forked child's copy: the lease is the parent's."""
        return self._pid != os.getpid()

    def check(self) -> None:
        """Go on only if the lease is still ours.

        Raises:
            LeaseLost: it is not.
        """
        loss = self.loss
        if loss is not None:
            raise loss
        if self._ended == "released":
            raise LeaseLost(self.id, "it was released here, before this use of it")

    def credentials(self) -> Credentials:
        """Say where the database is and how to get in.

        Raises:
            LeaseLost: the lease is no longer ours.
        """
        self.check()
        return self._lease.credentials()

    def beats(self, beat: Heartbeat) -> None:
        """Take the heartbeat that decides whether it is lost."""
        self._beat = beat

    def tell(self, reason: str) -> None:
        """Be told by the heartbeat that it is lost."""
        self._set_lost()
        if self._on_lost is not None:
            self._on_lost(LeaseLost(self.id, reason))

    def _set_lost(self) -> None:
        raise NotImplementedError

    def _may_reset(self) -> None:
        if self.inherited:
            message = "only the process that acquired a lease can reset it: its login would change under the other's feet"
            raise RuntimeError(message)
        self.check()

    def _renamed(self, lease: Lease) -> Lease:
        self._lease = lease
        return lease

    def _over(self, error: ServiceError) -> LeaseLost:
        if self._beat is not None:
            self._beat.abandon(str(error))
        return self.loss or LeaseLost(self.id, str(error))

    def end(self, how: str, lease: Lease | None = None) -> None:
        """Take note that it was released or kept: no heartbeat any more, and leaving the context does nothing."""
        self._ended = how
        if self._beat is not None and not self.inherited:
            self._beat.stop()
        if lease is not None and lease.password is not None:
            self._lease = lease


class HeldLease(HeldLeaseBase):
    """A lease that a thread of this process renews.

    Attributes:
        lost: set when the lease was lost.
    """

    def __init__(
        self,
        lease: Lease,
        on_lost: Callable[[LeaseLost], None] | None,
        release: Release,
        keep: Keep,
        reset: Reset,
    ) -> None:
        super().__init__(lease, on_lost)
        self.lost = threading.Event()
        self._release = release
        self._keep = keep
        self._reset = reset

    def release(self) -> Leftovers | None:
        """Give the database back now; leaving the context does nothing more.

        Returns what was left open in it, if the service says so.

        Raises:
            LeaseLost: it was lost before.
        """
        if self.ended or self.inherited:
            return None
        self.check()
        self.end("released")
        return self._release(self.id)

    def reset(self) -> Lease:
        """Have the database made clean again, in place; from now on it has another login, and so another ``url``.

        Connections of the old login are ended. When this fails for another reason than a loss, ask again, or release.

        Raises:
            LeaseLost: it was lost.
        """
        self._may_reset()
        try:
            return self._renamed(self._reset(self.id))
        except (LeaseEnded, LeaseNotFound) as over:
            raise self._over(over) from over

    def keep(self, *, ttl_seconds: float = DEFAULT_KEEP_SECONDS, reason: str | None = None) -> Lease:
        """Hold it back for a look: no heartbeat and no release from here on.

        Raises:
            LeaseLost: it was lost before.
        """
        self.check()
        kept = self._keep(self.id, ttl_seconds=ttl_seconds, reason=reason)
        self.end("kept")
        return kept

    def _set_lost(self) -> None:
        self.lost.set()


class AsyncHeldLease(HeldLeaseBase):
    """A lease that a task of the event loop renews.

    Attributes:
        lost: set when the lease was lost.
    """

    def __init__(
        self,
        lease: Lease,
        on_lost: Callable[[LeaseLost], None] | None,
        release: AsyncRelease,
        keep: AsyncKeep,
        reset: AsyncReset,
    ) -> None:
        super().__init__(lease, on_lost)
        self.lost = asyncio.Event()
        self._release = release
        self._keep = keep
        self._reset = reset

    async def release(self) -> Leftovers | None:
        """Give the database back now; leaving the context does nothing more.

        Returns what was left open in it, if the service says so.

        Raises:
            LeaseLost: it was lost before.
        """
        if self.ended or self.inherited:
            return None
        self.check()
        self.end("released")
        return await self._release(self.id)

    async def reset(self) -> Lease:
        """Have the database made clean again, in place; from now on it has another login, and so another ``url``.

        Connections of the old login are ended. When this fails for another reason than a loss, ask again, or release.

        Raises:
            LeaseLost: it was lost.
        """
        self._may_reset()
        try:
            return self._renamed(await self._reset(self.id))
        except (LeaseEnded, LeaseNotFound) as over:
            raise self._over(over) from over

    async def keep(self, *, ttl_seconds: float = DEFAULT_KEEP_SECONDS, reason: str | None = None) -> Lease:
        """Hold it back for a look: no heartbeat and no release from here on.

        Raises:
            LeaseLost: it was lost before.
        """
        self.check()
        kept = await self._keep(self.id, ttl_seconds=ttl_seconds, reason=reason)
        self.end("kept")
        return kept

    def _set_lost(self) -> None:
        self.lost.set()
