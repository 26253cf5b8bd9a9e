"""A lease while it is held: it is renewed in the background, and its use raises an error after a loss.

After a fork, the child can use the database while the parent holds the lease. The child neither renews nor releases it, and
does not detect a loss.
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


class Keep(Protocol):
    """Keeps a lease for inspection."""

    def __call__(self, lease_id: str, *, ttl_seconds: float, reason: str | None) -> Lease:
        """Send the request."""


class AsyncKeep(Protocol):
    """Keeps a lease for inspection."""

    def __call__(self, lease_id: str, *, ttl_seconds: float, reason: str | None) -> Awaitable[Lease]:
        """Send the request."""


class HeldLeaseBase(Connectable):
    """Base class of held leases. ``Client.lease`` and ``AsyncClient.lease`` create them."""

    def __init__(self, lease: Lease, on_lost: Callable[[LeaseLost], None] | None) -> None:
        self._lease = lease
        self._on_lost = on_lost
        self._beat: Heartbeat | None = None
        self._ended: str | None = None
        self._pid = os.getpid()

    def __repr__(self) -> str:
        """Show the lease without its password."""
        return f"<{type(self).__name__} {self._lease!r}>"

    @property
    def lease(self) -> Lease:
        """The lease as the service described it when it was acquired, or last reset."""
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
        """Name of the login."""
        return self.credentials().user

    @property
    def password(self) -> str:
        """Password of the login."""
        return self.credentials().password

    @property
    def loss(self) -> LeaseLost | None:
        """The loss of the lease with its reason, if it was lost."""
        reason = None if self._beat is None or self.inherited else self._beat.loss_reason()
        return None if reason is None else LeaseLost(self.id, reason)

    @property
    def ended(self) -> bool:
        """True after the holder has released or kept the lease."""
        return self._ended is not None

    @property
    def inherited(self) -> bool:
        """True in a forked child. The parent holds the lease."""
        return self._pid != os.getpid()

    def check(self) -> None:
        """Check that the lease is still held.

        Raises:
            LeaseLost: it was lost or released.
        """
        loss = self.loss
        if loss is not None:
            raise loss
        if self._ended == "released":
            raise LeaseLost(self.id, "it was released here before this use")

    def credentials(self) -> Credentials:
        """Return the address and login of the database.

        Raises:
            LeaseLost: the lease was lost.
        """
        self.check()
        return self._lease.credentials()

    def attach(self, beat: Heartbeat) -> None:
        """Set the heartbeat that renews this lease."""
        self._beat = beat

    def mark_lost(self, reason: str) -> None:
        """Set the lease as lost, and call `on_lost`."""
        self._set_lost()
        if self._on_lost is not None:
            self._on_lost(LeaseLost(self.id, reason))

    def _set_lost(self) -> None:
        raise NotImplementedError

    def _check_may_reset(self) -> None:
        if self.inherited:
            message = "only the process that acquired a lease can reset it, because a reset changes its login"
            raise RuntimeError(message)
        self.check()

    def _replace(self, lease: Lease) -> Lease:
        self._lease = lease
        return lease

    def _lost_by(self, error: ServiceError) -> LeaseLost:
        if self._beat is not None:
            self._beat.record_loss(str(error))
        return self.loss or LeaseLost(self.id, str(error))

    def mark_ended(self, how: str, lease: Lease | None = None) -> None:
        """Record that the lease was released or kept. This ends its heartbeats, and the block does not release it again."""
        self._ended = how
        if self._beat is not None and not self.inherited:
            self._beat.stop()
        if lease is not None and lease.password is not None:
            self._lease = lease


class HeldLease(HeldLeaseBase):
    """A lease that a thread of this process renews.

    Attributes:
        lost: event that is set when the lease is lost.
    """

    def __init__(
        self,
        lease: Lease,
        on_lost: Callable[[LeaseLost], None] | None,
        release: Callable[[str], Leftovers | None],
        keep: Keep,
        reset: Callable[[str], Lease],
    ) -> None:
        super().__init__(lease, on_lost)
        self.lost = threading.Event()
        self._release = release
        self._keep = keep
        self._reset = reset

    def release(self) -> Leftovers | None:
        """Release the lease now, before the end of the block.

        Returns:
            the objects that were left open in the database, if the service reports them.

        Raises:
            LeaseLost: the lease was lost before.
        """
        if self.ended or self.inherited:
            return None
        self.check()
        self.mark_ended("released")
        return self._release(self.id)

    def reset(self) -> Lease:
        """Reset the database in place. Afterwards it has another login, and so another ``url``.

        The service closes connections of the old login. After any other error than a loss, repeat it or release the lease.

        Raises:
            LeaseLost: the lease was lost.
        """
        self._check_may_reset()
        try:
            return self._replace(self._reset(self.id))
        except (LeaseEnded, LeaseNotFound) as over:
            raise self._lost_by(over) from over

    def keep(self, *, ttl_seconds: float = DEFAULT_KEEP_SECONDS, reason: str | None = None) -> Lease:
        """Keep the database for inspection, without heartbeats and without a release.

        Raises:
            LeaseLost: the lease was lost before.
        """
        self.check()
        kept = self._keep(self.id, ttl_seconds=ttl_seconds, reason=reason)
        self.mark_ended("kept")
        return kept

    def _set_lost(self) -> None:
        self.lost.set()


class AsyncHeldLease(HeldLeaseBase):
    """A lease that a task of the event loop renews.

    Attributes:
        lost: event that is set when the lease is lost.
    """

    def __init__(
        self,
        lease: Lease,
        on_lost: Callable[[LeaseLost], None] | None,
        release: Callable[[str], Awaitable[Leftovers | None]],
        keep: AsyncKeep,
        reset: Callable[[str], Awaitable[Lease]],
    ) -> None:
        super().__init__(lease, on_lost)
        self.lost = asyncio.Event()
        self._release = release
        self._keep = keep
        self._reset = reset

    async def release(self) -> Leftovers | None:
        """Release the lease now, before the end of the block.

        Returns:
            the objects that were left open in the database, if the service reports them.

        Raises:
            LeaseLost: the lease was lost before.
        """
        if self.ended or self.inherited:
            return None
        self.check()
        self.mark_ended("released")
        return await self._release(self.id)

    async def reset(self) -> Lease:
        """Reset the database in place. Afterwards it has another login, and so another ``url``.

        The service closes connections of the old login. After any other error than a loss, repeat it or release the lease.

        Raises:
            LeaseLost: the lease was lost.
        """
        self._check_may_reset()
        try:
            return self._replace(await self._reset(self.id))
        except (LeaseEnded, LeaseNotFound) as over:
            raise self._lost_by(over) from over

    async def keep(self, *, ttl_seconds: float = DEFAULT_KEEP_SECONDS, reason: str | None = None) -> Lease:
        """Keep the database for inspection, without heartbeats and without a release.

        Raises:
            LeaseLost: the lease was lost before.
        """
        self.check()
        kept = await self._keep(self.id, ttl_seconds=ttl_seconds, reason=reason)
        self.mark_ended("kept")
        return kept

    def _set_lost(self) -> None:
        self.lost.set()
