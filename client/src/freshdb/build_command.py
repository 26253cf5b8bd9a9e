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
_GRACE_SECONDS: Final = 5.0
_EXTENSION_DENIED: Final = "permission denied to create extension"
_EXTENSION_HINT: Final = (
    "hint: name the extension in extensions, and the service installs it before the build"
)


def run_build_command(
    command: str | Sequence[str], grant: BuildGrant, *, directory: Path, output: IO[str] | None = None
) -> None:
    """Run a command with ``DATABASE_URL`` and the ``PG*`` variables of a build. The shell runs a string.

    Args:
        command: the command, as a string or as a list of words.
        grant: the build.
        directory: the working directory.
        output: stream for the command's output, line by line. The error always has the last lines.

    Raises:
        BuildCommandFailed: its exit code is not 0.
    """
    words = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
    shown = command if isinstance(command, str) else shlex.join(command)
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
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
                tail.append(line.replace(grant.password, "***"))
                if output is not None:
                    output.write(tail[-1])
                    output.flush()
            process.wait()
        except BaseException:
            _end(process)
            raise
    if process.returncode != 0:
        output_tail = "".join(tail).rstrip()
        if _EXTENSION_DENIED in output_tail:
            output_tail += f"\n{_EXTENSION_HINT}"
        raise BuildCommandFailed(shown, process.returncode, output_tail)


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
