"""Directories and user of an embedded server.

PostgreSQL refuses to run as root. So root runs the servers as the user ``postgres``, else as ``nobody``. Often this user can
reach neither a virtual environment below ``/root`` nor a directory that root created for itself (``/tmp/x``, mode 0700).
Programs that it cannot reach are copied below ``ROOT_DATA``, once per version. Data directories that it cannot reach are
relocated there. The relocated directory has the path of the original, and is removed when the original is gone. For an
ordinary user, nothing is copied or relocated.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import platformdirs

from freshdb_service.embedded.errors import BinaryNotFound, DataDirectoryUnusable

ROOT_DATA: Final = Path("/var/lib/freshdb")

_ORIGIN = "origin"
_TRAVERSABLE = 0o711
_MOST_LINKS = 40  # the limit of Linux


@dataclass(frozen=True, slots=True)
class Account:
    """The user for servers that root starts."""

    name: str
    uid: int
    gid: int


def server_account() -> Account | None:
    """Return the user for servers, or ``None`` for this process's own user.

    Raises:
        BinaryNotFound: this process runs as root, and neither a user ``postgres`` nor ``nobody`` exists.
    """
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(name, entry.pw_uid, entry.pw_gid)
    raise BinaryNotFound(
        "PostgreSQL does not run as root, and there is no user 'postgres' or 'nobody' to run it as: "
        "run freshdb as an ordinary user, or create one of them (useradd --system postgres)"
    )


def default_data_directory() -> Path:
    """Return the default data directory: below the user's data directory, or ``ROOT_DATA`` for root."""
    if os.geteuid() == 0:
        return ROOT_DATA
    return Path(platformdirs.user_data_dir("freshdb", appauthor=False))


def traversable(directory: Path, account: Account | None) -> bool:
    """True if this account may traverse ``directory`` and all its parents."""
    if account is None:
        return os.access(directory, os.X_OK)
    try:
        return all(_granted(one, account, 0o1) for one in (directory, *directory.parents))
    except OSError:
        return False


def runnable(program: Path, account: Account | None, *, bundle: Callable[[Path], Iterator[Path]]) -> Path:
    """Return a path at which ``account`` can run ``program``: the program's own path, or that of a copy.

    A copy keeps the name, because a program behind a symbolic link may behave differently under the name of its target.

    Args:
        program: program that this process's user can run.
        account: user that runs it.
        bundle: yields the paths that belong to the program, itself included. All are below one directory.

    Raises:
        BinaryNotFound: the program had to be copied, and that failed.
    """
    program = program.absolute()
    if account is None:
        return program
    try:
        file = program.resolve()
        reachable = all(_granted(directory, account, 0o1) for directory in _passed_through(program))
        if reachable and _granted(file, account, 0o5):
            return program
        return _copied(file, program.name, sorted(bundle(file)))
    except OSError as error:
        raise BinaryNotFound(
            f"the user {account.name} cannot run {program}, and copying it to {ROOT_DATA} failed ({error}): "
            "make the program executable for the user, or the directory writable for root"
        ) from error


def _passed_through(path: Path) -> Iterator[Path]:
    """Yield all directories that the system traverses to reach a file, including those of symbolic links."""
    here, todo, links = Path("/"), [*reversed(path.parts[1:])], 0
    while todo:
        yield here
        step = here / todo.pop()
        if step.is_symlink() and links < _MOST_LINKS:
            links += 1
            target = step.readlink()
            todo += reversed(target.parts)  # joining an absolute path to `here` restarts at the root
        else:
            here = step.parent.parent if step.name == ".." else step


def _copied(file: Path, name: str, bundle: list[Path]) -> Path:
    """Copy a program with its bundle, once per version, and return the path of the copy under this name."""
    top = Path(os.path.commonpath([one.parent for one in bundle]))
    # Two versions never share a copy, but many virtual environments with one version do.
    layout = "\n".join(str(one.relative_to(top)) for one in bundle)
    digest = hashlib.sha256(file.read_bytes() + layout.encode())
    home = root_directory("binaries")
    copy = home / f"{name}-{digest.hexdigest()[:16]}"
    program = (copy / file.relative_to(top)).with_name(name)
    if copy.is_dir():  # it is complete, because one rename created it
        if program.exists():
            return program
        shutil.rmtree(copy)  # it was damaged later
    staging = Path(tempfile.mkdtemp(prefix=f".{copy.name}-", dir=home))
    try:
        for source in bundle:
            target = staging / source.relative_to(top)
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, symlinks=True)
            else:
                shutil.copy2(source, target)
        link = staging / program.relative_to(copy)
        if not link.exists():
            link.symlink_to(file.name)
        _make_readable(staging)
        staging.rename(copy)
    except OSError:
        shutil.rmtree(staging, ignore_errors=True)
        if not program.exists():  # if it exists, another process was faster
            raise
    return program


def prepare_directory(data: Path, account: Account | None) -> Path:
    """Create the directory of the server for ``data`` and return it. It is ``data`` itself where possible.

    Raises:
        DataDirectoryUnusable: it can be neither created nor written.
    """
    data = data.absolute()
    try:
        data.mkdir(mode=0o700 if account is None else _TRAVERSABLE, parents=True, exist_ok=True)
        if account is None:
            _check_writable(data)
            return data
        data.chmod(data.stat().st_mode | _TRAVERSABLE)  # secret files in it have their own mode
        _check_writable(data)
        if traversable(data, account):
            return data
        relocated = relocated_path(data)
        relocated.mkdir(mode=_TRAVERSABLE, exist_ok=True)
        (relocated / _ORIGIN).write_text(f"{data}\n")
    except OSError as error:
        raise DataDirectoryUnusable(
            f"the data directory {data} cannot be used ({error.strerror or error}): make it writable for the user "
            f"{pwd.getpwuid(os.geteuid()).pw_name}, or choose another with --data DIR"
        ) from error
    return relocated


def server_directory(data: Path, account: Account | None) -> Path:
    """Return the directory that ``prepare_directory`` returns for ``data``, without creating it."""
    data = data.absolute()
    if account is None or traversable(data, account):
        return data
    return relocated_path(data)


def relocated_path(data: Path) -> Path:
    """Return the relocated directory of this data directory."""
    name = hashlib.sha256(os.fsencode(data.resolve())).hexdigest()[:16]
    return root_directory("data") / name


def remove_abandoned(is_running: Callable[[Path], bool]) -> None:
    """Remove relocated directories whose originals are gone, unless a server still runs there."""
    if not (ROOT_DATA / "data").is_dir():
        return
    for relocated in (ROOT_DATA / "data").iterdir():
        with suppress(OSError):
            origin = Path((relocated / _ORIGIN).read_text().rstrip("\n"))
            if not origin.exists() and not is_running(relocated):
                shutil.rmtree(relocated)


def root_directory(name: str) -> Path:
    """Create a directory below ``ROOT_DATA`` if it is missing. All users may traverse it."""
    directory = ROOT_DATA / name
    for one in (ROOT_DATA, directory):
        one.mkdir(mode=_TRAVERSABLE, parents=True, exist_ok=True)
        one.chmod(one.stat().st_mode | _TRAVERSABLE)  # regardless of the umask
    return directory


def change_owner(path: Path, account: Account | None) -> None:
    """Change the owner of this file or directory to ``account``.

    Raises:
        DataDirectoryUnusable: the system does not let root do this, as in some containers.
    """
    if account is None:
        return
    try:
        os.chown(path, account.uid, account.gid)
    except OSError as error:
        raise DataDirectoryUnusable(
            f"the owner of {path} cannot be changed to {account.name}, the user for servers that root starts "
            f"({error.strerror}): run freshdb as an ordinary user"
        ) from error


def _granted(path: Path, account: Account, wanted: int) -> bool:
    facts = path.stat()
    if facts.st_uid == account.uid:
        granted = facts.st_mode >> 6
    elif facts.st_gid == account.gid:
        granted = facts.st_mode >> 3
    else:
        granted = facts.st_mode
    return granted & wanted == wanted


def _check_writable(directory: Path) -> None:
    with tempfile.TemporaryFile(dir=directory):
        pass


def _make_readable(top: Path) -> None:
    for one in (top, *top.rglob("*")):
        if not one.is_symlink():
            mode = one.stat().st_mode
            one.chmod(mode | (0o555 if mode & 0o100 or one.is_dir() else 0o444))
