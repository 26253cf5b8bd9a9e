"""The commands and their options."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from freshdb import __version__
from freshdb.cli.token_arguments import add_access

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Handle = Callable[[argparse.Namespace], int]

_SHORTEST_INTERVAL_SECONDS: Final = 0.1
_SHELLS: Final = ("bash", "zsh", "fish")
_EPILOG: Final = """
With no service configured (--url, [tool.freshdb] url, FRESHDB_URL) an embedded one is started in the background and
left warm; `freshdb stop` stops it. The token is taken from FRESHDB_TOKEN.
"""


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Read a command line; what follows ``--`` is in `command`. Ends the process with 2 when it is wrong."""
    own, command = list(words), []
    if "--" in own:
        cut = own.index("--")
        own, command = own[:cut], own[cut + 1 :]
    parser = _parser()
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what could come next
        _complete(parser)
    arguments = parser.parse_args(own)
    arguments.command = command
    if command and not arguments.takes_command:
        parser.error(f"`{arguments.verb}` takes nothing after --")
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="freshdb", description="Lease clean PostgreSQL databases.", epilog=_EPILOG, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"freshdb {__version__}")
    commands = _Commands(parser)
    _add_service(commands)
    _add_leases(commands)
    _add_templates(commands)
    add_access(commands)
    return parser


class _Commands:
    """Adds commands with the options that all have."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._commands = parser.add_subparsers(dest="verb", metavar="COMMAND", required=True)

    def add(
        self, verb: str, summary: str, handle: str, *, usage: str | None = None, takes_command: bool = False
    ) -> argparse.ArgumentParser:
        parser = self._commands.add_parser(
            verb, help=summary, description=summary, usage=usage, allow_abbrev=False
        )
        _add_common(parser)
        parser.set_defaults(handle=_lazily(handle), takes_command=takes_command)
        return parser

    def group(self, verb: str, summary: str) -> _Commands:
        return _Commands(
            self._commands.add_parser(verb, help=summary, description=summary, allow_abbrev=False)
        )


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", help="the service's address")
    parser.add_argument("--data", type=Path, metavar="DIR", help="data directory of the embedded service")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _add_service(commands: _Commands) -> None:
    commands.add("serve", "serve in the foreground (`freshdb serve --help`)", "freshdb.cli.service:status")
    commands.add("stop", "stop the embedded service in the background", "freshdb.cli.service:stop")
    status = commands.add(
        "status", "show where the service is, and how it does", "freshdb.cli.service:status"
    )
    status.add_argument(
        "--watch",
        type=_interval,
        nargs="?",
        const=2.0,
        metavar="SECONDS",
        help="go on showing it, with pools and leases, every so often (2); q ends it",
    )
    commands.add("pools", "list pools: databases by state, and who waits", "freshdb.cli.service:pools")
    shell = commands.add(
        "completion",
        'print what makes a shell complete commands: eval "$(freshdb completion bash)"',
        "freshdb.cli.completion:completion",
    )
    shell.add_argument("shell", choices=_SHELLS)


def _add_leases(commands: _Commands) -> None:
    run = commands.add(
        "run",
        "run a command with a clean database of its own (DATABASE_URL, PG*)",
        "freshdb.cli.run:run",
        usage="freshdb run [options] -- COMMAND [ARGUMENT …]",
        takes_command=True,
    )
    _completed(
        run.add_argument("--template", help="NAME or NAME@FINGERPRINT (default: that of [tool.freshdb])"),
        "templates",
    )
    _add_terms(run)
    psql = commands.add(
        "psql",
        "open psql on a clean database, or on one that was leased before",
        "freshdb.cli.run:psql",
        usage="freshdb psql [options] [TEMPLATE] [-- ARGUMENT …]",
        takes_command=True,
    )
    _add_template(psql)
    lease = psql.add_argument(
        "--lease", metavar="ID", help="open this lease's database; the lease is left as it is"
    )
    _completed(lease, "leases")
    _add_terms(psql)
    acquire = commands.add(
        "acquire", "lease a clean database and print its URL", "freshdb.cli.leases:acquire"
    )
    _add_template(acquire)
    acquire.add_argument("--idempotency-key", metavar="KEY", help="the same key gives the same lease again")
    _add_terms(acquire)
    renew = commands.add("renew", "renew a lease", "freshdb.cli.leases:renew")
    _completed(renew.add_argument("lease", metavar="ID"), "leases")
    renew.add_argument(
        "--ttl", type=_seconds, metavar="SECONDS", help="how long from now (default: as acquired)"
    )
    reset = commands.add(
        "reset", "make a leased database clean in place and print its new URL", "freshdb.cli.leases:reset"
    )
    _completed(reset.add_argument("lease", metavar="ID"), "leases")
    release = commands.add("release", "give leased databases back", "freshdb.cli.leases:release")
    _completed(release.add_argument("leases", metavar="ID", nargs="+"), "leases")
    release.add_argument("--force", action="store_true", help="revoke: also somebody else's")
    keep = commands.add("keep", "hold a leased database back for a look", "freshdb.cli.leases:keep")
    _completed(keep.add_argument("lease", metavar="ID"), "leases")
    keep.add_argument(
        "--ttl", type=_seconds, metavar="SECONDS", default=3600.0, help="how long (default 3600)"
    )
    keep.add_argument("--reason", help="shown with the lease")
    leases = commands.add("leases", "list leases", "freshdb.cli.leases:leases")
    leases.add_argument(
        "--state", help="active, kept, released, expired or revoked (default: those that live)"
    )
    leases.add_argument("--template", help="NAME or NAME@FINGERPRINT")
    leases.add_argument("--isolation", choices=("database", "schema"))
    leases.add_argument("--limit", type=int, help="at most so many")
    _add_marks(leases)


def _add_templates(commands: _Commands) -> None:
    templates = commands.add("templates", "list templates", "freshdb.cli.templates:templates")
    templates.add_argument("--name", help="only those of this name")
    templates.add_argument("--state", help="building, ready, failed or retired")
    group = commands.group("template", "make and retire templates")
    build = group.add(
        "build",
        "have a template made by a command, unless it is there",
        "freshdb.cli.templates:build",
        usage="freshdb template build NAME (--inputs GLOB … | --fingerprint HASH) [options] -- COMMAND [ARGUMENT …]",
        takes_command=True,
    )
    build.add_argument("name", metavar="NAME")
    build.add_argument(
        "--inputs",
        action="append",
        default=[],
        metavar="GLOB",
        help="files that the command makes it from; their content is the fingerprint. Can be given several times",
    )
    _add_making(build)
    sql = group.add(
        "sql", "have a template made from SQL files, unless it is there", "freshdb.cli.templates:sql"
    )
    sql.add_argument("name", metavar="NAME")
    sql.add_argument("files", metavar="FILE", nargs="+", type=Path)
    _add_making(sql)
    retire = group.add("retire", "retire a template: no new leases", "freshdb.cli.templates:retire")
    retire.add_argument("template", metavar="TEMPLATE", help="id, NAME or NAME@FINGERPRINT")
    retire.add_argument("--force", action="store_true", help="although leases on it are active")


def _add_template(parser: argparse.ArgumentParser) -> None:
    action = parser.add_argument(
        "template", nargs="?", help="NAME or NAME@FINGERPRINT (default: that of [tool.freshdb])"
    )
    _completed(action, "templates")


def _add_making(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fingerprint", metavar="HASH", help="take this instead of a hash of the content")
    parser.add_argument(
        "--extension",
        action="append",
        default=[],
        dest="extensions",
        metavar="NAME",
        help="installed by the service",
    )
    parser.add_argument(
        "--wait", type=_seconds, metavar="SECONDS", default=600.0, help="for another builder (default 600)"
    )


def _add_terms(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--isolation", choices=("database", "schema"), help="default: that of [tool.freshdb], database"
    )
    parser.add_argument("--ttl", type=_seconds, metavar="SECONDS", default=300.0, help="default 300")
    parser.add_argument(
        "--wait", type=_seconds, metavar="SECONDS", default=30.0, help="in the queue (default 30)"
    )
    _add_marks(parser)


def _add_marks(parser: argparse.ArgumentParser) -> None:
    for name in ("holder", "label"):
        parser.add_argument(
            f"--{name}",
            action="append",
            default=[],
            type=_pair,
            metavar="KEY=VALUE",
            help=f"{name}, can be given several times",
        )


def _pair(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not key or not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


def _interval(text: str) -> float:
    value = _seconds(text)
    if value < _SHORTEST_INTERVAL_SECONDS:
        raise argparse.ArgumentTypeError(f"at least {_SHORTEST_INTERVAL_SECONDS:g} seconds")
    return value


def _complete(parser: argparse.ArgumentParser) -> None:
    """Print what could come next, and end the process; nothing where argcomplete is not installed."""
    try:
        import argcomplete  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        raise SystemExit(1) from None
    argcomplete.autocomplete(parser)


def _completed(action: argparse.Action, name: str) -> None:
    """Have a shell complete an argument with what ``freshdb.cli.completion`` has by this name."""

    def complete(**given: object) -> list[str]:
        from importlib import import_module  # noqa: PLC0415 - only for a shell

        found: list[str] = getattr(import_module("freshdb.cli.completion"), name)(**given)
        return found

    action.completer = complete  # type: ignore[attr-defined]  # argcomplete's way


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return value


def _lazily(name: str) -> Handle:
    """Import a command's module when it is called, so that ``--help`` is fast."""

    def handle(arguments: argparse.Namespace) -> int:
        from importlib import import_module  # noqa: PLC0415 - the point of this function

        module, _, function = name.partition(":")
        found: Handle = getattr(import_module(module), function)
        return found(arguments)

    return handle
