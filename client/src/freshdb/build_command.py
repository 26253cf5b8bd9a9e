"""Runs the command that fills a template. It can be any program that takes its database from the environment."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections import deque
from typing import IO, TYPE_CHECKING, Final

from freshdb.environment import environment_with
from freshdb.errors import BuildCommandFailed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from freshdb.models import BuildGrant

_TAIL_LINES: Final = 40
_HEAD_CHARACTERS: Final = 30_000
_REST_CHARACTERS: Final = 100_000
_ERROR_LINES: Final = 100
_GRACE_SECONDS: Final = 5.0
_EXTENSION_DENIED: Final = "permission denied to create extension"
_EXTENSION_HINT: Final = (
    "hint: name the extension in extensions, and the service installs it before the build"
)


def run_build_command(
    command: str | Sequence[str], grant: BuildGrant, *, directory: Path, output: IO[str] | None = None
) -> str:
    """Run a command with ``DATABASE_URL`` and the ``PG*`` variables of a build. The shell runs a string.

    Args:
        command: the command, as a string or as a list of words.
        grant: the build.
        directory: the working directory.
        output: stream for the command's output, line by line. The error always has the last lines.

    Returns:
        the output without the password: its beginning and end, and lines with errors between them.

    Raises:
        BuildCommandFailed: its exit code is not 0.
    """
    words = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
    shown = command if isinstance(command, str) else shlex.join(command)
    lines = _Lines()
    try:
        process = subprocess.Popen(
            words,
            cwd=directory,
            env=environment_with(grant, os.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise BuildCommandFailed(shown, 127, f"{words[0]}: {error.strerror}") from error
    with process:
        try:
            for line in process.stdout or ():
                shown_line = line.replace(grant.password, "***")
                lines.add(shown_line)
                if output is not None:
                    output.write(shown_line)
                    output.flush()
            process.wait()
        except BaseException:
            _end(process)
            raise
    if process.returncode != 0:
        hint = f"\n{_EXTENSION_HINT}" if _EXTENSION_DENIED in lines.text() else ""
        raise BuildCommandFailed(shown, process.returncode, lines.tail() + hint, lines.text())
    return lines.text()


class _Lines:
    """The output of a command. Of a long one, lines between the beginning and the end are left out, but errors stay."""

    def __init__(self) -> None:
        self._head: list[str] = []
        self._errors: list[str] = []
        self._rest: deque[str] = deque()
        self._head_characters = self._rest_characters = self._left_out = 0

    def add(self, line: str) -> None:
        if not self._rest and self._head_characters + len(line) <= _HEAD_CHARACTERS:
            self._head.append(line)
            self._head_characters += len(line)
            return
        self._rest.append(line)
        self._rest_characters += len(line)
        while self._rest_characters > _REST_CHARACTERS and len(self._rest) > 1:
            oldest = self._rest.popleft()
            self._rest_characters -= len(oldest)
            if "ERROR:" in oldest and len(self._errors) < _ERROR_LINES:
                self._errors.append(oldest)
            else:
                self._left_out += 1

    def text(self) -> str:
        gap = [f"[{self._left_out} lines were left out here]\n"] if self._left_out else []
        return "".join([*self._head, *gap, *self._errors, *self._rest])

    def tail(self) -> str:
        return "".join([*self._head, *self._rest][-_TAIL_LINES:]).rstrip()


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
