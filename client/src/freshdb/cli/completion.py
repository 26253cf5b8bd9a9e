"""``completion``: what a shell has to run to complete freshdb's commands (argcomplete, of the extra ``cli``).

Options and commands are known without a service. Names of templates and ids of leases are asked of the one that is
configured, or that runs already; it has a second to answer, and none is started for it.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from freshdb.cli.exits import FAILED
from freshdb.cli.output import complain_to, print_json, result

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable

    from freshdb.client import Client

_SECONDS: Final = 1.0


def completion(arguments: argparse.Namespace) -> int:
    """Print the code that makes a shell complete freshdb's commands."""
    try:
        from argcomplete.shell_integration import shellcode  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        complain_to(
            arguments,
            "completion needs argcomplete, which is not installed here",
            "pip install 'freshdb[cli]'",
        )
        return FAILED
    code = shellcode(["freshdb"], shell=arguments.shell)
    if arguments.json:
        print_json({"shell": arguments.shell, "code": code})
    else:
        result(code)
    return 0


def templates(prefix: str, parsed_args: argparse.Namespace, **_: object) -> list[str]:
    """Names of templates that are ready."""
    return _asked(parsed_args, prefix, lambda client: {one.name for one in client.templates(state="ready")})


def leases(prefix: str, parsed_args: argparse.Namespace, **_: object) -> list[str]:
    """Ids of leases that live."""
    return _asked(parsed_args, prefix, lambda client: {one.id for one in client.leases()})


def _asked(arguments: argparse.Namespace, prefix: str, ask: Callable[[Client], Iterable[str]]) -> list[str]:
    from freshdb.cli.connect import configured_url  # noqa: PLC0415 - most completions need no service
    from freshdb.client import Client  # noqa: PLC0415
    from freshdb.embedded import default_data_directory, running_service  # noqa: PLC0415

    with suppress(Exception):  # whatever is wrong, somebody is in the middle of a line
        url = configured_url(arguments)
        if url is None and (running := running_service(arguments.data or default_data_directory())):
            url = running.url
        if url is not None:
            with Client(url, timeout_seconds=_SECONDS, retry_seconds=0.0) as client:
                return sorted(one for one in ask(client) if one.startswith(prefix))
    return []
