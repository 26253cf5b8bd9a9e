"""Where a connection would lead: what drivers were given, completed as libpq completes it, before anything is sent."""

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
    """A database that a connection would lead to.

    Attributes:
        scheme: ``postgresql``, ``sqlite``, or another dialect of SQLAlchemy's.
        database: its name; a file, for SQLite.
        host: a name or an address; a directory, for a Unix socket; empty, for the driver's own default.
        address: what `host` was resolved to, if that was said beside it (libpq's ``hostaddr``).
    """

    scheme: str
    database: str
    host: str = ""
    port: int | None = None
    user: str = ""
    address: str = ""

    @property
    def url(self) -> str:
        """As a URL without a password."""
        user = f"{quote(self.user, safe='')}@" if self.user else ""
        host = self.host or self.address
        host = f"[{host}]" if ":" in host else quote(host, safe="")
        port = f":{self.port}" if self.port and host else ""
        return f"{self.scheme}://{user}{host}{port}/{quote(self.database, safe='/')}"

    def is_at(self, host: str, port: int) -> bool:
        """Whether it leads to this server; the names of loopback are one."""
        here = self.address or self.host
        same = here == host or {here, host} <= _LOOPBACK or (bool(self.address) and here in _addresses(host))
        return same and self.port == port


def libpq_targets(given: Mapping[str, object], environ: Mapping[str, str]) -> list[Target]:
    """All places that libpq would try, in its order: what it was given, then the service file, then ``PG*``."""
    options = {key: str(value) for key, value in given.items() if value not in (None, "")}
    service = options.get("service") or environ.get("PGSERVICE")
    if service:
        found = _service(service, environ)
        if found is None:  # libpq may know better: what it would find there is no lease for certain
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
    """The file behind what ``sqlite3.connect`` is given; ``None`` if it is memory."""
    if not database or ":memory:" in database or "mode=memory" in database:
        return None
    path = database.removeprefix("file:").partition("?")[0] if database.startswith("file:") else database
    return Target("sqlite", str(Path(path).resolve()))


def _nth(values: list[str], number: int) -> str:
    return values[min(number, len(values) - 1)]


def _login() -> str:
    import getpass  # noqa: PLC0415 - every guarded pytest run loads this module: most need neither this one nor the next

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
