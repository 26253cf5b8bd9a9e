"""Processes whose wall clock is wrong, by libfaketime (Debian's package of this name). Monotonic clocks are left alone."""

from __future__ import annotations

from pathlib import Path


def faketime() -> Path | None:
    """The library, if it is installed."""
    return next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)


def sweep() -> None:
    """Remove what libfaketime keeps in shared memory of processes that were killed: nobody else does."""
    for left in Path("/dev/shm").glob("*faketime_*"):  # noqa: S108 - where the library puts it
        if not Path("/proc", left.name.rpartition("_")[2]).exists():
            left.unlink(missing_ok=True)


class WrongClock:
    """Of the processes that are started with ``environment``: so many seconds off, and it can jump."""

    def __init__(self, path: Path, library: Path) -> None:
        self._path = path
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(path),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def is_off_by(self, seconds: int) -> None:
        self._path.write_text(f"{seconds:+d}")
