"""A process that can connect to nothing but its leases.

The story that this prevents: a test file imports the application's own ``session_maker``, which leads where
``DATABASE_URL`` of the developer's shell leads, and its fixture drops all tables there.

While a `Guard` is on, every connection that asyncpg, psycopg, psycopg2 or SQLAlchemy is about to open in this process is
looked at before anything is sent. Leases that this process holds, and templates that it builds, are known by themselves;
what else is allowed, it was told. Anything else raises `NotALease`. It is on also for what is imported later: drivers are
looked for as they are imported, and none is imported on this account. Forked children inherit it; other programs that are
started do not have it.

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
_PASSED_OVER: Final = _DRIVERS | sys.stdlib_module_names
_INSTALLED: Final = ("site-packages", "dist-packages")
_MEND: Final = "Give it the URL of a lease, or allow it: Guard(allow=[{url!r}])."


class NotALease(ToolkitError):
    """A connection was refused: it would have led to a database that is no lease of this process."""


class Offence(NamedTuple):
    """An attempt to connect to something that is no lease.

    Attributes:
        url: where it would have led, without the password.
        driver: by what.
        place: the module and line that tried.
        test: pytest's node id of the test that ran, or an empty string.
        ended: whether that was a lease of this process, which has ended.
    """

    url: str
    driver: str
    place: str
    test: str
    ended: bool

    def __str__(self) -> str:
        what = "a lease that has ended" if self.ended else "no lease of this process"
        return f"{self.place} connects to {self.url} by {self.driver}: {what}"


class Guard:
    """Refuses connections to what is no lease, from `on` to `off`, or in a ``with`` block.

    SQLite in memory is always allowed. Each guard of a process asks for itself; the last one on is the first one off.

    Args:
        allow: URLs without passwords, as errors show them; ``*`` stands for anything.
        report: refuse nothing, only note it in `offences`.
        scratch: says which directory may hold SQLite files, if any.
        mend: what errors recommend; ``{url}`` is the URL.
    """

    def __init__(
        self,
        *,
        allow: Iterable[str] = (),
        report: bool = False,
        scratch: Callable[[], Path | None] = lambda: None,
        mend: str = _MEND,
    ) -> None:
        self.offences: list[Offence] = []
        self._allowed = [re.compile(".*".join(map(re.escape, one.split("*")))) for one in allow]
        self._report = report
        self._scratch = scratch
        self._mend = mend
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
        """Look at every connection from now on; drivers that are not imported yet included.

        Raises:
            RuntimeError: a driver's release that the guard does not know; nothing is watched then.
        """
        try:
            watch(self, self._patches)
        except RuntimeError:
            self.off()
            raise

    def off(self) -> None:
        """Leave no trace in the drivers."""
        self._patches.undo()

    def hold(self, name: str, credentials: Credentials) -> None:
        """Allow a database, until `forget` names it again. Leases of freshdb's clients do so themselves."""
        self._leases[name] = credentials

    def forget(self, name: str) -> None:
        """A lease has ended."""
        credentials = self._leases.pop(name, None)
        if credentials is not None:
            self._ended[name] = credentials

    def check(self, targets: Iterable[Target], driver: str) -> None:
        """Let pass, or note and refuse.

        Raises:
            NotALease: one of these places is neither a lease nor allowed.
        """
        for target in targets:
            if not self._allows(target):
                ended = any(_leads_to(target, one) for one in self._ended.values())
                test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
                offence = Offence(target.url, driver, _place(sys._getframe(1)), test, ended)  # noqa: SLF001 - the only way
                self.offences.append(offence)
                if not self._report:
                    raise NotALease(f"freshdb guard: {offence}. {self._mend.format(url=target.url)}")

    def _allows(self, target: Target) -> bool:
        leases = list(self._leases.values())  # a thread may acquire meanwhile
        if any(_leads_to(target, lease) for lease in leases):
            return True
        if target.scheme == "sqlite":
            scratch = self._scratch()
            if scratch is not None and scratch.resolve() in Path(target.database).parents:
                return True
        return any(pattern.fullmatch(target.url) for pattern in self._allowed)


def _leads_to(target: Target, lease: Credentials) -> bool:
    return (target.scheme, target.database, target.user) == (
        "postgresql",
        lease.database,
        lease.user,
    ) and target.is_at(lease.host, lease.port)


def _place(frame: FrameType | None) -> str:
    """The innermost line that is neither a driver's nor the standard library's; a project's own rather than a package's."""
    asking = [one for one in _callers(frame) if _package(one) not in _PASSED_OVER]
    own = [one for one in asking if not any(part in one.f_code.co_filename for part in _INSTALLED)]
    for found in own or asking:
        return f"{found.f_globals.get('__name__')} ({found.f_code.co_filename}:{found.f_lineno})"
    return f"thread {threading.current_thread().name}"


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    """All frames, also those that wait for the greenlet that this is in (SQLAlchemy's asyncio does so)."""
    greenlet = getattr(sys.modules.get("greenlet"), "getcurrent", lambda: None)()
    while frame is not None:
        yield frame
        frame = frame.f_back
        while frame is None and greenlet is not None and greenlet.parent is not None:
            greenlet = greenlet.parent
            frame = greenlet.gr_frame


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]
