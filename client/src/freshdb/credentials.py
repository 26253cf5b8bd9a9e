"""Credentials of a database, in the formats of drivers and tools."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from urllib.parse import quote


@dataclass(frozen=True, slots=True)
class Credentials:
    """Address and login of a database."""

    host: str
    port: int
    database: str
    user: str
    password: str = field(repr=False)

    def url(self, scheme: str) -> str:
        """Return the credentials as a URL."""
        host = f"[{self.host}]" if ":" in self.host else quote(self.host, safe="")
        login = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}"
        return f"{scheme}://{login}@{host}:{self.port}/{quote(self.database, safe='')}"


class Connectable(ABC):
    """An object that has a database: a lease or a build. Gives its credentials in the formats of drivers and tools."""

    __slots__ = ()

    @abstractmethod
    def credentials(self) -> Credentials:
        """Return the address and login of the database.

        Raises:
            NoCredentials: the password is unknown.
            LeaseLost: the lease was lost.
        """

    @property
    def url(self) -> str:
        """``postgresql://user:password@host:port/database``, for libpq, psycopg, asyncpg, Django and others."""
        return self.credentials().url("postgresql")

    @property
    def async_url(self) -> str:
        """``postgresql+asyncpg://…``, for SQLAlchemy's asyncio engine."""
        return self.sqlalchemy_url("asyncpg")

    @property
    def dsn(self) -> str:
        """Libpq's keywords: ``host=… port=… dbname=… user=… password=…``."""
        found = self.credentials()
        words = {"host": found.host, "port": str(found.port), "dbname": found.database}
        words |= {"user": found.user, "password": found.password}
        return " ".join(f"{key}={_libpq_quoted(value)}" for key, value in words.items())

    def sqlalchemy_url(self, driver: str = "psycopg") -> str:
        """Return a URL for SQLAlchemy: ``postgresql+driver://…``."""
        return self.credentials().url(f"postgresql+{driver}")

    def env(self) -> dict[str, str]:
        """Return the environment variables of the database: ``DATABASE_URL`` and libpq's own."""
        found = self.credentials()
        return {
            "DATABASE_URL": found.url("postgresql"),
            "PGHOST": found.host,
            "PGPORT": str(found.port),
            "PGUSER": found.user,
            "PGPASSWORD": found.password,
            "PGDATABASE": found.database,
        }


def _libpq_quoted(value: str) -> str:
    plain = value and not any(character in value for character in " '\\")
    return value if plain else "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
