"""Processes with a wrong wall clock, by libfaketime (a package of Debian). Monotonic clocks stay correct."""

from __future__ import annotations

from pathlib import Path


def faketime_library() -> Path | None:
    """Return the library, if it is installed."""
    return next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)


def remove_shared_memory() -> None:
    """Remove the shared memory that libfaketime keeps for killed processes. It does not do so itself."""
    for path in Path("/dev/shm").glob("*faketime_*"):  # noqa: S108 - where the library puts it
        if not Path("/proc", path.name.rpartition("_")[2]).exists():
            path.unlink(missing_ok=True)


class WrongClock:
    """The wall clock of the processes that are started with ``environment``. It is off by some seconds, and can jump."""

    def __init__(self, path: Path, library: Path) -> None:
        self._path = path
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(path),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set_offset(self, seconds: int) -> None:
        self._path.write_text(f"{seconds:+d}")
