"""``completion``: the code that a shell runs to complete freshdb's commands (argcomplete, of the extra ``cli``).

Commands and options need no service. Names of templates and ids of leases come from the service that is configured or
already running. It has one second to answer, and no service is started for a completion.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from freshdb.cli.exits import FAILED
from freshdb.cli.output import print_json, print_result, report_error

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable

    from freshdb.client import Client

_SECONDS: Final = 1.0


def completion(arguments: argparse.Namespace) -> int:
    """Print the code for a shell's completion of freshdb's commands."""
    try:
        from argcomplete.shell_integration import shellcode  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        report_error(
            arguments,
            "completion needs argcomplete, which is not installed",
            "pip install 'freshdb[cli]'",
        )
        return FAILED
    code = shellcode(["freshdb"], shell=arguments.shell)
    if arguments.json:
        print_json({"shell": arguments.shell, "code": code})
    else:
        print_result(code)
    return 0


def templates(prefix: str, parsed_args: argparse.Namespace, **_: object) -> list[str]:
    """List the names of templates that are ready."""
    return _ask(parsed_args, prefix, lambda client: {one.name for one in client.templates(state="ready")})


def leases(prefix: str, parsed_args: argparse.Namespace, **_: object) -> list[str]:
    """List the ids of active and kept leases."""
    return _ask(parsed_args, prefix, lambda client: {one.id for one in client.leases()})


def _ask(arguments: argparse.Namespace, prefix: str, ask: Callable[[Client], Iterable[str]]) -> list[str]:
    from freshdb.cli.connect import configured_url  # noqa: PLC0415 - most completions need no service
    from freshdb.client import Client  # noqa: PLC0415
    from freshdb.embedded import default_data_directory, running_service  # noqa: PLC0415

    with suppress(Exception):  # an error message would land in the line that the user is typing
        url = configured_url(arguments)
        if url is None and (running := running_service(arguments.data or default_data_directory())):
            url = running.url
        if url is not None:
            with Client(url, timeout_seconds=_SECONDS, retry_seconds=0.0) as client:
                return sorted(one for one in ask(client) if one.startswith(prefix))
    return []
