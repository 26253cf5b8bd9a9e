"""Content hashes of the inputs of templates. The same content gives the same template on every machine.

A hash covers relative paths and file contents, but no times, owners or absolute paths. The kind and length of each part come
first, so that different parts never give the same bytes.
"""

from __future__ import annotations

import hashlib
import os
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Final

from freshdb.extensions import listed_extensions
from freshdb.messages import listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from freshdb.extensions import AnyExtension

_NO_INPUT: Final = frozenset({"__pycache__"})


class Fingerprint:
    """A hash of parts in their order."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, kind: str, content: bytes) -> None:
        """Add one part."""
        self._digest.update(f"{kind} {len(content)}\n".encode())
        self._digest.update(content)

    def add_texts(self, kind: str, values: Iterable[str]) -> None:
        """Add several texts in their order."""
        for value in values:
            self.add(kind, value.encode())

    def add_file(self, root: Path, path: Path) -> None:
        """Add a file's relative path and content."""
        self.add("path", Path(os.path.relpath(path, root)).as_posix().encode())
        self.add("content", path.read_bytes())

    def hex(self) -> str:
        """Return the hash of all parts."""
        return self._digest.hexdigest()


def matching_files(root: Path, pattern: str) -> list[Path]:
    """Return the files that a glob below `root` matches, sorted. A directory stands for all files in it."""
    found: set[Path] = set()
    for name in glob(pattern, root_dir=root, recursive=True):  # noqa: PTH207 - before 3.13, Path.glob("a/**") finds no files
        path = root / name
        found.update(one for one in (path.rglob("*") if path.is_dir() else [path]) if one.is_file())
    return sorted(path for path in found if not _NO_INPUT.intersection(path.parts))


def of_inputs(
    root: Path,
    files: Iterable[Path],
    *,
    command: str | Sequence[str],
    extensions: AnyExtension | Iterable[AnyExtension],
) -> str:
    """Hash the command that builds a template and the files that it reads."""
    fingerprint = Fingerprint()
    fingerprint.add_texts("extension", sorted(map(str, listed_extensions(extensions))))
    fingerprint.add_texts("command", listed(command))
    for path in sorted(set(files)):
        fingerprint.add_file(root, path)
    return fingerprint.hex()


def of_sql(scripts: str | Sequence[str], extensions: AnyExtension | Iterable[AnyExtension]) -> str:
    """Hash SQL scripts in their order."""
    fingerprint = Fingerprint()
    fingerprint.add_texts("extension", sorted(map(str, listed_extensions(extensions))))
    fingerprint.add_texts("sql", listed(scripts))
    return fingerprint.hex()
