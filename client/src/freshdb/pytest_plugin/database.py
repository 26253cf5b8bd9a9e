"""The value of the fixtures."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from freshdb.held_lease import HeldLease
    from freshdb.models import Lease


class LeasedDatabase:
    """A clean database and its address. The lease is held as long as the fixture's scope.

    The repr shows no password. Once the lease is lost, every access to an address raises ``freshdb.LeaseLost``,
    because the database may belong to another test by then.
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
        """The lease of this database: id, times and holder, as the service reported them last."""
        return self._held.lease

    @property
    def url(self) -> str:
        """``postgresql://user:password@host:port/database``, for psycopg, asyncpg and libpq's tools."""
        return self._held.url

    @property
    def async_url(self) -> str:
        """The URL for SQLAlchemy's asyncio engines: ``postgresql+asyncpg://…``."""
        return self._held.async_url

    def sqlalchemy_url(self, driver: str) -> str:
        """Return the URL for a SQLAlchemy driver: ``postgresql+DRIVER://…``."""
        return self._held.sqlalchemy_url(driver)

    def env(self) -> dict[str, str]:
        """Return ``DATABASE_URL`` and libpq's ``PG*`` variables, for subprocesses."""
        return self._held.env()

    def reset(self) -> None:
        """Reset the database in place, for tests that share it. Afterwards its login and its addresses are new."""
        self._held.reset()

    @property
    def host(self) -> str:
        """Host of the PostgreSQL server."""
        return self._held.host

    @property
    def port(self) -> int:
        """Port of the PostgreSQL server."""
        return self._held.port

    @property
    def database(self) -> str:
        """Name of the PostgreSQL database."""
        return self._held.database

    @property
    def schema(self) -> str | None:
        """Name of the schema, with isolation ``schema``. The search path of the login already contains it."""
        return self._held.schema

    @property
    def user(self) -> str:
        """The login, which was created for this lease only."""
        return self._held.user

    @property
    def password(self) -> str:
        """Password of the login."""
        return self._held.password or ""

    @property
    def template(self) -> str:
        """The template of the clone: ``name@fingerprint``."""
        return self._held.template
