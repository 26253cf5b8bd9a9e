"""Where an embedded server keeps its things, and as whom it runs.

PostgreSQL refuses to run as root. Root therefore runs the servers as the user ``postgres``, else as ``nobody``, who can
often reach neither a virtual environment below ``/root`` nor a directory that root made for itself (``/tmp/x``, mode
0700). Programs that this user cannot reach are copied, once per version, and data is kept, below ``SHELTER``: root's own
directory for what freshdb may not keep where it was asked to. The data directory that was asked for is remembered there,
and once it is gone its shelter is removed too. An ordinary user has no use for any of this.
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

SHELTER: Final = Path("/var/lib/freshdb")

_ORIGIN = "origin"
_TRAVERSABLE = 0o711
_MOST_LINKS = 40  # as Linux follows


@dataclass(frozen=True, slots=True)
class Account:
    """The user that servers started by root run as."""

    name: str
    uid: int
    gid: int


def server_account() -> Account | None:
    """Whom servers run as; ``None`` means as this process's own user.

    Raises:
        BinaryNotFound: this is root, and there is neither a user ``postgres`` nor ``nobody``.
    """
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(name, entry.pw_uid, entry.pw_gid)
    raise BinaryNotFound(
        "PostgreSQL does not run as root, and there is no user 'postgres' or 'nobody' to run it as: "
        "run freshdb as an ordinary user, or make one of them (useradd --system postgres)"
    )


def default_data_directory() -> Path:
    """Where the embedded service keeps its data by default: the user's data directory, or ``SHELTER`` for root."""
    if os.geteuid() == 0:
        return SHELTER
    return Path(platformdirs.user_data_dir("freshdb", appauthor=False))


def passable(directory: Path, account: Account | None) -> bool:
    """Whether this account may pass through ``directory`` and every one above it."""
    if account is None:
        return os.access(directory, os.X_OK)
    try:
        return all(_granted(one, account, 0o1) for one in (directory, *directory.parents))
    except OSError:
        return False


def runnable(program: Path, account: Account | None, *, bundle: Callable[[Path], Iterator[Path]]) -> Path:
    """Return a path at which ``account`` can run ``program``: its own, or that of a copy in the shelter.

    The name stays the same: a program that is called by a symbolic link may do something else under the link's target.

    Args:
        program: the program, which its own user can run.
        account: the user that runs it.
        bundle: lists the files and directories that belong to the file, all below one directory; the file among them.

    Raises:
        BinaryNotFound: it would have to be copied, and that failed.
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
            f"{program} cannot be run by the user {account.name}, and copying it to "
            f"{SHELTER} failed ({error}): make one of the two possible"
        ) from error


def _passed_through(path: Path) -> Iterator[Path]:
    """Yield every directory that the system passes through on its way to a file, those of links on the way among them."""
    here, todo, links = Path("/"), [*reversed(path.parts[1:])], 0
    while todo:
        yield here
        step = here / todo.pop()
        if step.is_symlink() and links < _MOST_LINKS:
            links += 1
            target = step.readlink()
            todo += reversed(target.parts)  # joined to `here`, an absolute path begins again at the root
        else:
            here = step.parent.parent if step.name == ".." else step


def _copied(file: Path, name: str, bundle: list[Path]) -> Path:
    """Copy a file with all that belongs to it, once per version, and return its path under this name."""
    top = Path(os.path.commonpath([one.parent for one in bundle]))
    # Two versions never share a copy; the same version in many virtual environments does.
    layout = "\n".join(str(one.relative_to(top)) for one in bundle)
    digest = hashlib.sha256(file.read_bytes() + layout.encode())
    home = shelter("binaries")
    copy = home / f"{name}-{digest.hexdigest()[:16]}"
    program = (copy / file.relative_to(top)).with_name(name)
    if copy.is_dir():  # it came here complete, by one rename
        if program.exists():
            return program
        shutil.rmtree(copy)  # it was damaged since
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
        _open_to_all(staging)
        staging.rename(copy)
    except OSError:
        shutil.rmtree(staging, ignore_errors=True)
        if not program.exists():  # otherwise another process was faster
            raise
    return program


def settle(data: Path, account: Account | None) -> Path:
    """Make the directory in which a server started for ``data`` keeps its things; it is ``data`` where possible.

    Raises:
        DataDirectoryUnusable: it can be neither made nor written.
    """
    data = data.absolute()
    try:
        data.mkdir(mode=0o700 if account is None else _TRAVERSABLE, parents=True, exist_ok=True)
        if account is None:
            _check_writable(data)
            return data
        data.chmod(data.stat().st_mode | _TRAVERSABLE)  # what is secret in it has a mode of its own
        _check_writable(data)
        if passable(data, account):
            return data
        sheltered = sheltered_path(data)
        sheltered.mkdir(mode=_TRAVERSABLE, exist_ok=True)
        (sheltered / _ORIGIN).write_text(f"{data}\n")
    except OSError as error:
        raise DataDirectoryUnusable(
            f"the data directory {data} cannot be used ({error.strerror or error}): make it writable for the user "
            f"{pwd.getpwuid(os.geteuid()).pw_name}, or choose another with --data DIR"
        ) from error
    return sheltered


def settled(data: Path, account: Account | None) -> Path:
    """Where ``settle`` put, or would put, the things of ``data``; makes nothing."""
    data = data.absolute()
    if account is None or passable(data, account):
        return data
    return sheltered_path(data)


def sheltered_path(data: Path) -> Path:
    """The place in the shelter that belongs to this data directory."""
    name = hashlib.sha256(os.fsencode(data.resolve())).hexdigest()[:16]
    return shelter("data") / name


def remove_abandoned(is_running: Callable[[Path], bool]) -> None:
    """Remove the shelters of data directories that are gone, unless a server still runs there."""
    if not (SHELTER / "data").is_dir():
        return
    for sheltered in (SHELTER / "data").iterdir():
        with suppress(OSError):
            origin = Path((sheltered / _ORIGIN).read_text().rstrip("\n"))
            if not origin.exists() and not is_running(sheltered):
                shutil.rmtree(sheltered)


def shelter(name: str) -> Path:
    """Make (if need be) one of the shelter's directories, which any user may pass through."""
    directory = SHELTER / name
    for one in (SHELTER, directory):
        one.mkdir(mode=_TRAVERSABLE, parents=True, exist_ok=True)
        one.chmod(one.stat().st_mode | _TRAVERSABLE)  # whatever the umask said
    return directory


def hand_over(path: Path, account: Account | None) -> None:
    """Make ``account`` the owner of this file or directory.

    Raises:
        DataDirectoryUnusable: the system does not let root do that, as in some containers.
    """
    if account is None:
        return
    try:
        os.chown(path, account.uid, account.gid)
    except OSError as error:
        raise DataDirectoryUnusable(
            f"{path} cannot be given to the user {account.name}, as whom root has to run the servers "
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


def _open_to_all(top: Path) -> None:
    for one in (top, *top.rglob("*")):
        if not one.is_symlink():
            mode = one.stat().st_mode
            one.chmod(mode | (0o555 if mode & 0o100 or one.is_dir() else 0o444))
