"""The command line: ``freshdb``.

Results go to standard output, everything else to standard error. Exit codes: 0 success, 1 failure, 2 usage error, 75 lease
lost, 128+n ended by signal n. ``run`` and ``psql`` return the exit code of their command.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

from freshdb.cli.exits import FAILED, INTERRUPTED, LEASE_LOST, USAGE, UsageError
from freshdb.cli.output import print_error, print_message, report_error

if TYPE_CHECKING:
    from collections.abc import Sequence

_SERVE: Final = "serve"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words[:1] == [_SERVE]:
            return _serve(words[1:])
        return _command(words)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _command(words: list[str]) -> int:
    from freshdb.cli.arguments import parse  # noqa: PLC0415 - `serve` does not need it
    from freshdb.errors import FreshdbError, LeaseLost  # noqa: PLC0415
    from freshdb.tracing import start as start_tracing  # noqa: PLC0415

    arguments = parse(words)
    if (problem := start_tracing()) is not None:
        print_message(problem)
    try:
        code: int = arguments.handle(arguments)
    except FreshdbError as error:
        from freshdb.cli.hints import hint  # noqa: PLC0415 - only when it went wrong

        report_error(arguments, str(error), hint(error), code=getattr(error, "code", None))
        return LEASE_LOST if isinstance(error, LeaseLost) else FAILED
    except (UsageError, ValueError) as error:
        report_error(arguments, str(error), f"see: {arguments.parser.prog} --help")
        return USAGE
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        report_error(arguments, str(error))
        return FAILED
    sys.stdout.flush()
    return code


def _serve(words: list[str]) -> int:
    try:
        from freshdb_service.serve import main as serve  # noqa: PLC0415 - another package, which may be missing
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("freshdb_service"):
            raise
        print_error("the service is not installed here", "pip install 'freshdb[service]'")
        return FAILED
    return serve(words)
