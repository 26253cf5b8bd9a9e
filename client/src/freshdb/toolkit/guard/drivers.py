"""The function of each library that opens connections: the guard patches the innermost one that knows the target.

So calls by names that a program has imported before (``from asyncpg import connect``) are checked, too.
"""

from __future__ import annotations

import os
from functools import wraps
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final, Protocol

from freshdb.toolkit.guard.targets import Target, libpq_targets, sqlite_target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import ModuleType

    from freshdb.credentials import Credentials
    from freshdb.toolkit.guard.patches import Patches

    Function = Callable[..., Any]

_WATCHED: Final = frozenset({"asyncpg", "psycopg", "psycopg_async", "psycopg2"})
"""SQLAlchemy's names of the drivers whose own functions are patched."""


class Guard(Protocol):
    """The calls that patched functions make to a guard."""

    def hold(self, name: str, credentials: Credentials) -> None:
        """Allow a database."""

    def forget(self, name: str) -> None:
        """Refuse a database whose lease has ended."""

    def check(self, targets: Iterable[Target], driver: str) -> None:
        """Refuse a connection unless its targets are allowed."""


def watch(guard: Guard, patches: Patches) -> None:
    """Patch every driver to check its connections, and freshdb's clients to report their leases."""
    for name, patch in {
        "freshdb.models": _granted,
        "freshdb.held_lease": _ended,
        "freshdb.lease_operations": _released,
        "asyncpg.connect_utils": _asyncpg,
        "psycopg": _psycopg,
        "psycopg_pool": _psycopg_pool,
        "psycopg2": _psycopg2,
        "sqlalchemy": _sqlalchemy,
    }.items():

        def apply(module: ModuleType, patch: Callable[[Guard, Patches, Any], None] = patch) -> None:
            patch(guard, patches, module)

        patches.when_imported(name, apply)


def _granted(guard: Guard, patches: Patches, models: Any) -> None:
    """Allow every lease and build that the service returns with a password."""

    def wrap(from_wire: Function) -> Function:
        @wraps(from_wire)
        def hold(*given: Any) -> Any:
            granted = from_wire(*given)
            if granted.password is not None:
                guard.hold(getattr(granted, "id", granted.database), granted.credentials())
            return granted

        return hold

    patches.wrap(models.Lease, "from_wire", wrap)
    patches.wrap(models.BuildGrant, "from_wire", wrap)


def _ended(guard: Guard, patches: Patches, held: Any) -> None:
    patches.wrap(held.HeldLeaseBase, "mark_ended", _after(lambda self, *_, **__: guard.forget(self.id)))


def _released(guard: Guard, patches: Patches, lease_operations: Any) -> None:
    forget = _after(lambda _, lease_id: guard.forget(lease_id))
    patches.wrap(lease_operations.LeaseOperations, "_delete", forget)


def _asyncpg(guard: Guard, patches: Patches, connect_utils: Any) -> None:
    def check(*, addr: str | tuple[str, int], params: Any, **_: object) -> None:
        socket = PurePosixPath(addr) if isinstance(addr, str) else None
        host, port = (str(socket.parent), int(socket.suffix[1:])) if socket else (str(addr[0]), int(addr[1]))
        guard.check([Target("postgresql", params.database, host, port, params.user)], "asyncpg")

    patches.wrap(connect_utils, "_connect_addr", _after(check))


def _psycopg(guard: Guard, patches: Patches, psycopg: Any) -> None:
    def check(_: object, conninfo: str = "", *__: object, **___: object) -> None:
        guard.check(libpq_targets(psycopg.conninfo.conninfo_to_dict(conninfo), os.environ), "psycopg")

    owners = [kind for kind in psycopg.Connection.__mro__ if "_connect_gen" in vars(kind)]
    patches.wrap((owners or [psycopg.Connection])[0], "_connect_gen", _after(check))


def _psycopg_pool(guard: Guard, patches: Patches, psycopg_pool: Any) -> None:
    """Check a pool where it is opened, because it connects repeatedly in its own threads or tasks."""

    def check(pool: Any) -> None:
        from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415 - users of the pool have it installed

        if not callable(pool.conninfo) and not callable(pool.kwargs):  # otherwise each connection is checked
            given = conninfo_to_dict(pool.conninfo or "") | (pool.kwargs or {})
            guard.check(libpq_targets(given, os.environ), "psycopg_pool")

    for kind in (psycopg_pool.ConnectionPool, psycopg_pool.AsyncConnectionPool):
        patches.wrap(kind, "_open", _after(check))


def _psycopg2(guard: Guard, patches: Patches, psycopg2: Any) -> None:
    def check(dsn: str, **_: object) -> None:
        guard.check(libpq_targets(psycopg2.extensions.parse_dsn(dsn), os.environ), "psycopg2")

    patches.wrap(psycopg2, "_connect", _after(check))


def _sqlalchemy(guard: Guard, patches: Patches, sqlalchemy: Any) -> None:
    """Check SQLite, and other databases whose drivers are not patched."""

    def check(dialect: Any, *given: Any, **named: Any) -> None:
        if dialect.driver not in _WATCHED:
            by = f"SQLAlchemy ({dialect.driver})"
            guard.check(_sqlite(given, named) if dialect.name == "sqlite" else [_other(dialect, named)], by)

    def check_creator(connection: Any, _: object) -> None:
        """Check an engine with a ``creator``, which does not call ``Dialect.connect``."""
        if type(connection).__module__ == "sqlite3":
            for row in connection.execute("PRAGMA database_list"):
                guard.check(_sqlite(row[2:], {}), "SQLAlchemy (creator)")

    patches.wrap(sqlalchemy.engine.default.DefaultDialect, "connect", _after(check))
    sqlalchemy.event.listen(sqlalchemy.pool.Pool, "connect", check_creator)
    patches.on_undo(lambda: sqlalchemy.event.remove(sqlalchemy.pool.Pool, "connect", check_creator))


def _sqlite(given: tuple[Any, ...], named: Mapping[str, Any]) -> list[Target]:
    target = sqlite_target(str(given[0] if given else named.get("database", "")))
    return [] if target is None else [target]


def _other(dialect: Any, named: Mapping[str, Any]) -> Target:
    """Return the target by the keywords that most drivers use."""

    def first(*names: str) -> str:
        return next((str(named[name]) for name in names if named.get(name)), "")

    port = first("port")
    return Target(
        dialect.name,
        first("database", "dbname", "db", "service_name"),
        first("host", "server", "dsn", "unix_sock"),
        int(port) if port.isdecimal() else None,
        first("user", "username"),
    )


def _after(check: Function) -> Callable[[Function], Function]:
    """Return a decorator that calls `check` with the arguments before the function, which an error of `check` prevents."""

    def wrap(function: Function) -> Function:
        @wraps(function)
        def checked(*given: Any, **named: Any) -> Any:
            check(*given, **named)
            return function(*given, **named)

        return checked

    return wrap
