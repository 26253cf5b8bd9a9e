"""Targets of connections: the parameters of a driver, completed as libpq completes them, before anything is sent."""

from __future__ import annotations

import socket
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_VARIABLES: Final = {
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "port": "PGPORT",
    "dbname": "PGDATABASE",
    "user": "PGUSER",
}


class Target(NamedTuple):
    """The database that a connection would use.

    Attributes:
        scheme: ``postgresql``, ``sqlite``, or another dialect of SQLAlchemy.
        database: name of the database, or the file for SQLite.
        host: name or address of the host, directory of a Unix socket, or empty for the driver's default.
        address: address of `host`, if it is given separately (libpq's ``hostaddr``).
    """

    scheme: str
    database: str
    host: str = ""
    port: int | None = None
    user: str = ""
    address: str = ""

    @property
    def url(self) -> str:
        """The target as a URL without a password."""
        user = f"{quote(self.user, safe='')}@" if self.user else ""
        host = self.host or self.address
        host = f"[{host}]" if ":" in host else quote(host, safe="")
        port = f":{self.port}" if self.port and host else ""
        return f"{self.scheme}://{user}{host}{port}/{quote(self.database, safe='/')}"

    def is_at(self, host: str, port: int) -> bool:
        """Return true if the target is on this server. All names of the loopback interface are equal."""
        here = self.address or self.host
        same = here == host or {here, host} <= _LOOPBACK or (bool(self.address) and here in _addresses(host))
        return same and self.port == port


def libpq_targets(given: Mapping[str, object], environ: Mapping[str, str]) -> list[Target]:
    """Return all targets that libpq would try, by its parameters, then the service file, then the ``PG*`` variables."""
    options = {key: str(value) for key, value in given.items() if value not in (None, "")}
    service = options.get("service") or environ.get("PGSERVICE")
    if service:
        found = _service(service, environ)
        if found is None:  # libpq may find the service elsewhere, but that is certainly not a lease
            return [Target("postgresql", f"?service={service}")]
        options = found | options
    for key, variable in _VARIABLES.items():
        if environ.get(variable):
            options.setdefault(key, environ[variable])
    user = options.get("user") or _login()
    hosts = options.get("host", "").split(",")
    addresses = options.get("hostaddr", "").split(",")
    ports = options.get("port", "5432").split(",")
    return [
        Target(
            "postgresql",
            options.get("dbname") or user,
            host=_nth(hosts, number),
            port=int(_nth(ports, number) or 5432),
            user=user,
            address=_nth(addresses, number),
        )
        for number in range(max(len(hosts), len(addresses)))
    ]


def sqlite_target(database: str) -> Target | None:
    """Return the target for the argument of ``sqlite3.connect``, or ``None`` for a database in memory."""
    if not database or ":memory:" in database or "mode=memory" in database:
        return None
    path = database.removeprefix("file:").partition("?")[0] if database.startswith("file:") else database
    return Target("sqlite", str(Path(path).resolve()))


def _nth(values: list[str], number: int) -> str:
    return values[min(number, len(values) - 1)]


def _login() -> str:
    import getpass  # noqa: PLC0415 - most guarded runs need neither this import nor the next

    return getpass.getuser()


def _service(name: str, environ: Mapping[str, str]) -> dict[str, str] | None:
    import configparser  # noqa: PLC0415

    for path in _service_files(environ):
        parser = configparser.RawConfigParser(delimiters="=", comment_prefixes="#", strict=False)
        try:
            parser.read(path)
        except (configparser.Error, UnicodeDecodeError):
            return None
        if parser.has_section(name):
            return dict(parser[name])
    return None


def _service_files(environ: Mapping[str, str]) -> Iterator[Path]:
    yield Path(environ.get("PGSERVICEFILE") or "~/.pg_service.conf").expanduser()
    if "PGSYSCONFDIR" in environ:
        yield Path(environ["PGSYSCONFDIR"], "pg_service.conf")


@lru_cache(maxsize=64)
def _addresses(host: str) -> frozenset[str]:
    try:
        return frozenset(str(found[4][0]) for found in socket.getaddrinfo(host, None))
    except OSError:
        return frozenset()
