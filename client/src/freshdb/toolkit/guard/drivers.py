"""By which door each library connects: the innermost one that knows where, whichever way it was called.

Names that a program has imported before (``from asyncpg import connect``) pass these doors, too.
"""

from __future__ import annotations

import os
from functools import wraps
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from freshdb.toolkit.guard.targets import Target, libpq_targets, sqlite_target

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType

    from freshdb.toolkit.guard import Guard
    from freshdb.toolkit.guard.patches import Patches

    Function = Callable[..., Any]

_WATCHED: Final = frozenset({"asyncpg", "psycopg", "psycopg_async", "psycopg2"})
"""SQLAlchemy's names of the drivers that are asked themselves."""


def watch(guard: Guard, patches: Patches) -> None:
    """Have a guard asked by every driver, and told of this process's leases."""
    for name, act in {
        "freshdb.models": _arrivals,
        "freshdb.held_lease": _ends,
        "freshdb.lease_operations": _releases,
        "asyncpg.connect_utils": _asyncpg,
        "psycopg": _psycopg,
        "psycopg_pool": _psycopg_pool,
        "psycopg2": _psycopg2,
        "sqlalchemy": _sqlalchemy,
    }.items():

        def once(module: ModuleType, act: Callable[[Guard, Patches, Any], None] = act) -> None:
            act(guard, patches, module)

        patches.once_imported(name, once)


def _arrivals(guard: Guard, patches: Patches, models: Any) -> None:
    """Every lease and build that the service answers with, if its password comes along."""

    def noting(from_wire: Function) -> Function:
        @wraps(from_wire)
        def note(*given: Any) -> Any:
            arrived = from_wire(*given)
            if arrived.password is not None:
                guard.hold(getattr(arrived, "id", arrived.database), arrived.credentials())
            return arrived

        return note

    patches.wrap(models.Lease, "from_wire", noting)
    patches.wrap(models.BuildGrant, "from_wire", noting)


def _ends(guard: Guard, patches: Patches, held: Any) -> None:
    patches.wrap(held.HeldLeaseBase, "end", _after(lambda self, *_, **__: guard.forget(self.id)))


def _releases(guard: Guard, patches: Patches, lease_operations: Any) -> None:
    forget = _after(lambda _, lease_id: guard.forget(lease_id))
    patches.wrap(lease_operations.LeaseOperations, "_give_back", forget)


def _asyncpg(guard: Guard, patches: Patches, connect_utils: Any) -> None:
    def look(*, addr: str | tuple[str, int], params: Any, **_: object) -> None:
        socket = PurePosixPath(addr) if isinstance(addr, str) else None
        host, port = (str(socket.parent), int(socket.suffix[1:])) if socket else (str(addr[0]), int(addr[1]))
        guard.check([Target("postgresql", params.database, host, port, params.user)], "asyncpg")

    patches.wrap(connect_utils, "_connect_addr", _after(look))


def _psycopg(guard: Guard, patches: Patches, psycopg: Any) -> None:
    def look(_: object, conninfo: str = "", *__: object, **___: object) -> None:
        guard.check(libpq_targets(psycopg.conninfo.conninfo_to_dict(conninfo), os.environ), "psycopg")

    owners = [kind for kind in psycopg.Connection.__mro__ if "_connect_gen" in vars(kind)]
    patches.wrap((owners or [psycopg.Connection])[0], "_connect_gen", _after(look))


def _psycopg_pool(guard: Guard, patches: Patches, psycopg_pool: Any) -> None:
    """A pool connects in threads or tasks of its own, again and again: ask where it is opened, and who opens it."""

    def look(pool: Any) -> None:
        from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415 - what uses the pool has it

        if not callable(pool.conninfo) and not callable(pool.kwargs):  # each connection is asked anyway
            given = conninfo_to_dict(pool.conninfo or "") | (pool.kwargs or {})
            guard.check(libpq_targets(given, os.environ), "psycopg_pool")

    for kind in (psycopg_pool.ConnectionPool, psycopg_pool.AsyncConnectionPool):
        patches.wrap(kind, "_open", _after(look))


def _psycopg2(guard: Guard, patches: Patches, psycopg2: Any) -> None:
    def look(dsn: str, **_: object) -> None:
        guard.check(libpq_targets(psycopg2.extensions.parse_dsn(dsn), os.environ), "psycopg2")

    patches.wrap(psycopg2, "_connect", _after(look))


def _sqlalchemy(guard: Guard, patches: Patches, sqlalchemy: Any) -> None:
    """SQLite, and whatever else it connects to by drivers that are not asked themselves."""

    def look(dialect: Any, *given: Any, **named: Any) -> None:
        if dialect.driver not in _WATCHED:
            by = f"SQLAlchemy ({dialect.driver})"
            guard.check(_sqlite(given, named) if dialect.name == "sqlite" else [_other(dialect, named)], by)

    def look_behind(connection: Any, _: object) -> None:
        """An engine with a ``creator`` passes no dialect's door."""
        if type(connection).__module__ == "sqlite3":
            for row in connection.execute("PRAGMA database_list"):
                guard.check(_sqlite(row[2:], {}), "SQLAlchemy (creator)")

    patches.wrap(sqlalchemy.engine.default.DefaultDialect, "connect", _after(look))
    sqlalchemy.event.listen(sqlalchemy.pool.Pool, "connect", look_behind)
    patches.finally_do(lambda: sqlalchemy.event.remove(sqlalchemy.pool.Pool, "connect", look_behind))


def _sqlite(given: tuple[Any, ...], named: Mapping[str, Any]) -> list[Target]:
    target = sqlite_target(str(given[0] if given else named.get("database", "")))
    return [] if target is None else [target]


def _other(dialect: Any, named: Mapping[str, Any]) -> Target:
    """By the keywords that drivers have in common."""

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


def _after(look: Function) -> Callable[[Function], Function]:
    """Let a function run after `look` has seen its arguments, unless that raises."""

    def wrap(function: Function) -> Function:
        @wraps(function)
        def ask(*given: Any, **named: Any) -> Any:
            look(*given, **named)
            return function(*given, **named)

        return ask

    return wrap
