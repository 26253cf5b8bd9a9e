"""The commands and their options."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from freshdb.cli.parser import Commands, add_seconds, complete_with, pair, refuse_unknown, seconds
from freshdb.cli.token_arguments import add_token_commands
from freshdb.extensions import Extension
from freshdb.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

_SHORTEST_INTERVAL_SECONDS: Final = 0.1
_SHELLS: Final = ("bash", "zsh", "fish")
_EPILOG: Final = """
With no service configured (--url, [tool.freshdb] url, FRESHDB_URL), freshdb starts an embedded one in the background and
leaves it running; `freshdb stop` stops it. The token is taken from FRESHDB_TOKEN.
"""


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Parse a command line. The words after ``--`` are in `command`. A wrong one ends the process with exit code 2."""
    own, command = list(words), []
    if "--" in own:
        cut = own.index("--")
        own, command = own[:cut], own[cut + 1 :]
    parser = _parser()
    if "_ARGCOMPLETE" in os.environ:  # a shell asks for completions
        _complete(parser)
    arguments, unknown = parser.parse_known_args(own)
    refuse_unknown(arguments.parser, unknown)
    arguments.command = command
    if command and not arguments.takes_command:
        arguments.parser.error(f"`{arguments.verb}` takes nothing after --")
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="freshdb", description="Lease clean PostgreSQL databases.", epilog=_EPILOG, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"freshdb {__version__}")
    commands = Commands(parser)
    _add_service(commands)
    _add_leases(commands)
    _add_templates(commands)
    add_token_commands(commands)
    return parser


def _add_service(commands: Commands) -> None:
    commands.add("serve", "serve in the foreground (`freshdb serve --help`)", "freshdb.cli.service:status")
    commands.add("stop", "stop the embedded service in the background", "freshdb.cli.service:stop")
    status = commands.add("status", "show the service's address and health", "freshdb.cli.service:status")
    status.add_argument(
        "--watch",
        type=_interval,
        nargs="?",
        const=2.0,
        metavar="SECONDS",
        help="show it at this interval (default 2), with pools and leases, until q or Ctrl-C; "
        "needs a terminal, or --json for one object per line",
    )
    commands.add("pools", "list pools: databases by state, and waiting requests", "freshdb.cli.service:pools")
    shell = commands.add(
        "completion",
        'print the code for shell completion: eval "$(freshdb completion bash)"',
        "freshdb.cli.completion:completion",
    )
    shell.add_argument("shell", choices=_SHELLS)


def _add_leases(commands: Commands) -> None:
    run = commands.add(
        "run",
        "run a command with its own clean database (DATABASE_URL, PG*)",
        "freshdb.cli.run:run",
        usage="freshdb run [--template TEMPLATE] [options] -- COMMAND [ARGUMENT …]",
        takes_command=True,
    )
    complete_with(
        run.add_argument("--template", help="NAME or NAME@FINGERPRINT (default: that of [tool.freshdb])"),
        "templates",
    )
    _add_terms(run)
    psql = commands.add(
        "psql",
        "open psql on a clean database, or on the database of a lease",
        "freshdb.cli.run:psql",
        usage="freshdb psql [options] [TEMPLATE] [-- ARGUMENT …]",
        takes_command=True,
    )
    _add_template(psql)
    lease = psql.add_argument(
        "--lease",
        metavar="ID",
        help="open the database of this lease; the lease is neither renewed nor released",
    )
    complete_with(lease, "leases")
    _add_terms(psql)
    acquire = commands.add(
        "acquire", "lease a clean database and print its URL", "freshdb.cli.leases:acquire"
    )
    _add_template(acquire)
    acquire.add_argument("--idempotency-key", metavar="KEY", help="the same key returns the same lease")
    _add_terms(acquire)
    renew = commands.add("renew", "renew a lease", "freshdb.cli.leases:renew")
    complete_with(renew.add_argument("lease", metavar="ID"), "leases")
    add_seconds(renew, "--ttl", "lifetime from now (default: as acquired)")
    reset = commands.add(
        "reset", "reset a leased database in place and print its new URL", "freshdb.cli.leases:reset"
    )
    complete_with(reset.add_argument("lease", metavar="ID"), "leases")
    release = commands.add("release", "release leases", "freshdb.cli.leases:release")
    complete_with(release.add_argument("leases", metavar="ID", nargs="+"), "leases")
    release.add_argument("--force", action="store_true", help="revoke them, also leases of other tokens")
    keep = commands.add("keep", "keep a leased database for inspection", "freshdb.cli.leases:keep")
    complete_with(keep.add_argument("lease", metavar="ID"), "leases")
    add_seconds(keep, "--ttl", "lifetime from now", 3600.0)
    keep.add_argument("--reason", help="shown with the lease")
    leases = commands.add("leases", "list leases", "freshdb.cli.leases:leases")
    leases.add_argument(
        "--state", help="active, kept, released, expired or revoked (default: active and kept)"
    )
    leases.add_argument("--template", help="NAME or NAME@FINGERPRINT")
    leases.add_argument("--isolation", choices=("database", "schema"))
    leases.add_argument("--limit", type=int, help="maximum number of leases to list")
    _add_marks(leases)


def _add_templates(commands: Commands) -> None:
    templates = commands.add("templates", "list templates", "freshdb.cli.templates:templates")
    templates.add_argument("--name", help="only templates with this name")
    templates.add_argument("--state", help="building, ready, failed or retired")
    group = commands.group("template", "create and retire templates")
    build = group.add(
        "build",
        "build a template by a command, unless it exists",
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
        help="files that the command reads; the fingerprint is a hash of their content. Can be given several times",
    )
    _add_building(build)
    sql = group.add("sql", "build a template from SQL files, unless it exists", "freshdb.cli.templates:sql")
    sql.add_argument("name", metavar="NAME")
    sql.add_argument("files", metavar="FILE", nargs="+", type=Path)
    _add_building(sql)
    log = group.add("log", "print the log of a template's build", "freshdb.cli.templates:log")
    log.add_argument("template", metavar="TEMPLATE", help="id, NAME or NAME@FINGERPRINT")
    retire = group.add("retire", "retire a template: no new leases", "freshdb.cli.templates:retire")
    retire.add_argument("template", metavar="TEMPLATE", help="id, NAME or NAME@FINGERPRINT")
    retire.add_argument("--force", action="store_true", help="also while leases on it are active")


def _add_template(parser: argparse.ArgumentParser) -> None:
    action = parser.add_argument(
        "template",
        nargs="?",
        metavar="TEMPLATE",
        help="NAME or NAME@FINGERPRINT (default: that of [tool.freshdb])",
    )
    complete_with(action, "templates")


def _add_building(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fingerprint", metavar="HASH", help="use this instead of a hash of the content")
    parser.add_argument(
        "--extension",
        action="append",
        default=[],
        dest="extensions",
        type=_extension,
        metavar="NAME[,schema=SCHEMA][,version=VERSION]",
        help="PostgreSQL extension that the service installs. Can be given several times",
    )
    add_seconds(parser, "--wait", "timeout for the build of another builder", 600.0)


def _extension(text: str) -> Extension:
    try:
        return Extension.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _add_terms(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--isolation", choices=("database", "schema"), help="default: that of [tool.freshdb], or database"
    )
    add_seconds(parser, "--ttl", "lifetime of the lease without renewal", 300.0)
    add_seconds(parser, "--wait", "timeout in the queue", 30.0)
    _add_marks(parser)


def _add_marks(parser: argparse.ArgumentParser) -> None:
    for name, summary in (("holder", "description of the holder"), ("label", "label of the lease")):
        parser.add_argument(
            f"--{name}",
            action="append",
            default=[],
            type=pair,
            metavar="KEY=VALUE",
            help=f"{summary}. Can be given several times",
        )


def _interval(text: str) -> float:
    value = seconds(text)
    if value < _SHORTEST_INTERVAL_SECONDS:
        raise argparse.ArgumentTypeError(f"at least {_SHORTEST_INTERVAL_SECONDS:g} seconds")
    return value


def _complete(parser: argparse.ArgumentParser) -> None:
    """Print the completions and end the process. Without argcomplete there are none."""
    try:
        import argcomplete  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        raise SystemExit(1) from None
    argcomplete.autocomplete(parser)
