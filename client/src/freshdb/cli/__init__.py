"""The command line: ``freshdb``.

Results go to standard output, everything else to standard error. Exit codes: 0 done, 1 it failed, 2 usage, 75 the
lease was lost, 128+n ended by signal n; ``run`` and ``psql`` pass on the exit code of what they ran.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

from freshdb.cli.exits import FAILED, INTERRUPTED, LEASE_LOST, USAGE
from freshdb.cli.output import complain, complain_to, say

if TYPE_CHECKING:
    from collections.abc import Sequence

_SERVE: Final = "serve"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; gives the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words[:1] == [_SERVE]:
            return _serve(words[1:])
        return _command(words)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _command(words: list[str]) -> int:
    from freshdb.cli.arguments import parse  # noqa: PLC0415 - `serve` does not need it
    from freshdb.cli.usage import UsageError  # noqa: PLC0415
    from freshdb.errors import FreshdbError, LeaseLost  # noqa: PLC0415
    from freshdb.tracing import start as start_tracing  # noqa: PLC0415

    arguments = parse(words)
    if (why_not := start_tracing()) is not None:
        say(why_not)
    try:
        code: int = arguments.handle(arguments)
    except UsageError as error:
        complain_to(arguments, str(error), f"see: freshdb {arguments.verb} --help")
        return USAGE
    except FreshdbError as error:
        from freshdb.cli.hints import hint  # noqa: PLC0415 - only when it went wrong

        complain_to(arguments, str(error), hint(error), code=getattr(error, "code", None))
        return LEASE_LOST if isinstance(error, LeaseLost) else FAILED
    except ValueError as error:
        complain_to(arguments, str(error), f"see: freshdb {arguments.verb} --help")
        return USAGE
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        complain_to(arguments, str(error))
        return FAILED
    sys.stdout.flush()
    return code


def _serve(words: list[str]) -> int:
    try:
        from freshdb_service.serve import main as serve  # noqa: PLC0415 - another package, which need not be there
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("freshdb_service"):
            raise
        complain("the service is not installed here", "pip install 'freshdb[service]'")
        return FAILED
    return serve(words)
