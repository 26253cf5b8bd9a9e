"""A guard with which a process can connect only to its own leases.

It prevents this accident: a test file imports the application's own ``session_maker``. This connects to the
``DATABASE_URL`` of the developer's shell, and a fixture drops all tables there.

While a `Guard` is on, it checks every connection of asyncpg, psycopg, psycopg2 and SQLAlchemy in this process before
anything is sent. The guard knows the leases that this process holds and the templates that it builds. Other databases
must be allowed explicitly. Any other connection raises `NotALease`. Drivers that are imported later are checked, too. The
guard itself imports no driver. Forked children inherit the guard. Other programs that the process starts are not guarded.

::

    with Guard(allow=["postgresql://*@localhost:5432/test_*"]):
        ...

The pytest plugin does this for a whole run: see ``--freshdb-guard``.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from freshdb.toolkit.errors import ToolkitError
from freshdb.toolkit.guard.drivers import watch
from freshdb.toolkit.guard.patches import Patches
from freshdb.toolkit.guard.targets import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import FrameType, TracebackType

    from freshdb.credentials import Credentials

__all__ = ["Guard", "NotALease", "Offence", "Target"]

_DRIVERS: Final = frozenset(
    {"aiosqlite", "asyncpg", "freshdb", "greenlet", "psycopg", "psycopg2", "psycopg_pool", "sqlalchemy"}
)
_SKIPPED: Final = _DRIVERS | sys.stdlib_module_names
_INSTALLED: Final = ("site-packages", "dist-packages")
_ADVICE: Final = "Give it the URL of a lease, or allow it: Guard(allow=[{url!r}])."


class NotALease(ToolkitError):
    """A connection was refused, because its database is not a lease of this process."""


class Offence(NamedTuple):
    """An attempt to connect to a database that is not leased.

    Attributes:
        url: URL of the database, without the password.
        driver: name of the driver.
        place: module and line of the attempt.
        test: pytest's node id of the running test, or an empty string.
        ended: true if the database was a lease of this process that has ended.
    """

    url: str
    driver: str
    place: str
    test: str
    ended: bool

    def __str__(self) -> str:
        what = "a lease that has ended" if self.ended else "not a lease of this process"
        return f"{self.place} connects to {self.url} by {self.driver}: {what}"


class Guard:
    """Refuses connections to databases that are not leased, from `on` to `off`, or in a ``with`` block.

    SQLite in memory is always allowed. Several guards in one process check independently of each other. Switch them off in
    reverse order.

    Args:
        allow: allowed URLs without passwords, as errors show them. ``*`` matches anything.
        report: refuse no connection, and only add it to `offences`.
        scratch: returns the directory in which SQLite files are allowed, if any.
        advice: advice in errors. ``{url}`` is replaced by the URL.
    """

    def __init__(
        self,
        *,
        allow: Iterable[str] = (),
        report: bool = False,
        scratch: Callable[[], Path | None] = lambda: None,
        advice: str = _ADVICE,
    ) -> None:
        self.offences: list[Offence] = []
        self._allowed = [re.compile(".*".join(map(re.escape, one.split("*")))) for one in allow]
        self._report = report
        self._scratch = scratch
        self._advice = advice
        self._leases: dict[str, Credentials] = {}
        self._ended: dict[str, Credentials] = {}
        self._patches = Patches()

    def __enter__(self) -> Self:
        self.on()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.off()

    def on(self) -> None:
        """Check every connection from now on, also of drivers that are not imported yet.

        Raises:
            RuntimeError: the guard does not know this release of a driver. The guard stays off.
        """
        try:
            watch(self, self._patches)
        except RuntimeError:
            self.off()
            raise

    def off(self) -> None:
        """Remove all patches from the drivers."""
        self._patches.undo()

    def hold(self, name: str, credentials: Credentials) -> None:
        """Allow a database until `forget` is called with its name. Leases of freshdb's clients are added automatically."""
        self._leases[name] = credentials

    def forget(self, name: str) -> None:
        """Refuse a database from now on, because its lease has ended."""
        credentials = self._leases.pop(name, None)
        if credentials is not None:
            self._ended[name] = credentials

    def check(self, targets: Iterable[Target], driver: str) -> None:
        """Check the targets of a connection, and add each one that is not allowed to `offences`.

        Raises:
            NotALease: a target is neither a lease nor allowed.
        """
        for target in targets:
            if not self._allows(target):
                ended = any(_matches(target, one) for one in self._ended.values())
                test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
                offence = Offence(target.url, driver, _place(sys._getframe(1)), test, ended)  # noqa: SLF001 - the only way
                self.offences.append(offence)
                if not self._report:
                    raise NotALease(f"freshdb guard: {offence}. {self._advice.format(url=target.url)}")

    def _allows(self, target: Target) -> bool:
        leases = list(self._leases.values())  # another thread may acquire a lease at the same time
        if any(_matches(target, lease) for lease in leases):
            return True
        if target.scheme == "sqlite":
            scratch = self._scratch()
            if scratch is not None and scratch.resolve() in Path(target.database).parents:
                return True
        return any(pattern.fullmatch(target.url) for pattern in self._allowed)


def _matches(target: Target, lease: Credentials) -> bool:
    return (target.scheme, target.database, target.user) == (
        "postgresql",
        lease.database,
        lease.user,
    ) and target.is_at(lease.host, lease.port)


def _place(frame: FrameType | None) -> str:
    """Return the innermost line outside drivers and the standard library, preferably of the project itself."""
    callers = [one for one in _callers(frame) if _package(one) not in _SKIPPED]
    own = [one for one in callers if not any(part in one.f_code.co_filename for part in _INSTALLED)]
    for found in own or callers:
        return f"{found.f_globals.get('__name__')} ({found.f_code.co_filename}:{found.f_lineno})"
    return f"thread {threading.current_thread().name}"


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    """Yield all frames, also those outside the current greenlet, which SQLAlchemy's asyncio uses."""
    greenlet = getattr(sys.modules.get("greenlet"), "getcurrent", lambda: None)()
    while frame is not None:
        yield frame
        frame = frame.f_back
        while frame is None and greenlet is not None and greenlet.parent is not None:
            greenlet = greenlet.parent
            frame = greenlet.gr_frame


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]
