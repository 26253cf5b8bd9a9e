"""The parser that every command has: common options, completion, and errors that show the command's own usage."""

from __future__ import annotations

import argparse
import math
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Handle = Callable[[argparse.Namespace], int]


class Commands:
    """Adds commands, each with the options that all of them have."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._commands = parser.add_subparsers(dest="verb", metavar="COMMAND", required=True)

    def add(
        self, verb: str, summary: str, handle: str, *, usage: str | None = None, takes_command: bool = False
    ) -> argparse.ArgumentParser:
        """Add a command; `handle` is ``module:function``, imported when the command runs."""
        parser = self._commands.add_parser(
            verb, help=summary, description=summary, usage=usage, allow_abbrev=False
        )
        parser.add_argument("--url", help="address of the service")
        parser.add_argument("--data", type=Path, metavar="DIR", help="data directory of the embedded service")
        parser.add_argument("--json", action="store_true", help="print the result as JSON")
        parser.set_defaults(handle=_lazily(handle), takes_command=takes_command, parser=parser)
        return parser

    def group(self, verb: str, summary: str) -> Commands:
        """Add a word that is followed by one of several commands."""
        return Commands(
            self._commands.add_parser(verb, help=summary, description=summary, allow_abbrev=False)
        )


def refuse_unknown(parser: argparse.ArgumentParser, unknown: Sequence[str]) -> None:
    """End the process with exit code 2 if there are unknown arguments; argparse would show the usage of ``freshdb``."""
    if not unknown:
        return
    message = f"unrecognized arguments: {' '.join(unknown)}"
    given = {word.partition("=")[0] for word in unknown}
    for action in parser._actions:  # noqa: SLF001 - argparse has no public list of them
        positional = (
            set() if action.option_strings else {f"--{action.dest}", f"--{action.dest.removesuffix('s')}"}
        )
        if given & positional:
            message += f"; write it without an option: {parser.prog} {action.metavar or action.dest.upper()}"
        elif given & set(action.option_strings):
            message += f"; write it after the command: {parser.prog} {action.option_strings[0]}"
    parser.error(message)


def complete_with(action: argparse.Action, name: str) -> None:
    """Let a shell complete an argument with the function of this name in ``freshdb.cli.completion``."""

    def complete(**given: object) -> list[str]:
        found: list[str] = getattr(import_module("freshdb.cli.completion"), name)(**given)
        return found

    action.completer = complete  # type: ignore[attr-defined]  # argcomplete's way


def add_seconds(
    parser: argparse.ArgumentParser, option: str, summary: str, default: float | None = None
) -> None:
    """Add an option with a number of seconds. The help shows its default."""
    shown = summary if default is None else f"{summary} (default {default:g})"
    parser.add_argument(option, type=seconds, metavar="SECONDS", default=default, help=shown)


def seconds(text: str) -> float:
    """Read a number of seconds, 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value


def pair(text: str) -> tuple[str, str]:
    """Read ``KEY=VALUE``."""
    key, separator, value = text.partition("=")
    if not key or not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


def _lazily(name: str) -> Handle:
    """Import a command's module when it is called, so that ``--help`` is fast."""

    def handle(arguments: argparse.Namespace) -> int:
        module, _, function = name.partition(":")
        found: Handle = getattr(import_module(module), function)
        return found(arguments)

    return handle
