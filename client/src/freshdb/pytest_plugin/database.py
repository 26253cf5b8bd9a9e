"""What the fixtures hand to a test."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from freshdb.held_lease import HeldLease
    from freshdb.models import Lease


class LeasedDatabase:
    """A clean database and its address; it lives as long as the fixture's scope.

    The password shows in no repr. Every access to an address raises ``freshdb.LeaseLost`` once the lease is
    lost: nothing is handed out that may be somebody else's by now.
    """

    __slots__ = ("_held",)

    def __init__(self, held: HeldLease) -> None:
        self._held = held

    def __repr__(self) -> str:
        lease = self._held.lease
        schema = f" schema={lease.schema!r}" if lease.schema is not None else ""
        return f"<LeasedDatabase {lease.database!r}{schema} template={lease.template!r} lease={lease.id}>"

    @property
    def lease(self) -> Lease:
        """The lease behind it: id, times, holder, as far as is known now."""
        return self._held.lease

    @property
    def url(self) -> str:
        """``postgresql://user:password@host:port/database``, for psycopg, asyncpg and libpq's tools."""
        return self._held.url

    @property
    def async_url(self) -> str:
        """The same for SQLAlchemy's asyncio engines: ``postgresql+asyncpg://…``."""
        return self._held.async_url

    def sqlalchemy_url(self, driver: str) -> str:
        """The same for a SQLAlchemy driver of your choice: ``postgresql+DRIVER://…``."""
        return self._held.sqlalchemy_url(driver)

    def env(self) -> dict[str, str]:
        """``DATABASE_URL`` and libpq's ``PG*`` variables, for subprocesses."""
        return self._held.env()

    def reset(self) -> None:
        """Have it made clean in place, as for tests that share it; its login and addresses are new ones then."""
        self._held.reset()

    @property
    def host(self) -> str:
        """Of the PostgreSQL server."""
        return self._held.host

    @property
    def port(self) -> int:
        """Of the PostgreSQL server."""
        return self._held.port

    @property
    def database(self) -> str:
        """Name of the PostgreSQL database."""
        return self._held.database

    @property
    def schema(self) -> str | None:
        """With isolation ``schema``, the schema; the login's search path already leads there."""
        return self._held.schema

    @property
    def user(self) -> str:
        """The login, made for this lease alone."""
        return self._held.user

    @property
    def password(self) -> str:
        """Of that login."""
        return self._held.password or ""

    @property
    def template(self) -> str:
        """The template it was cloned from: ``name@fingerprint``."""
        return self._held.template
