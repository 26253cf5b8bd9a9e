"""Messages, hints and usage errors name commands and options that exist. No service is needed."""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import freshdb
import freshdb_service
from freshdb.cli import main
from freshdb.cli.arguments import _parser
from freshdb_service import serve

PROSE = {"itself", "service"}
"""Words that follow "freshdb" where a message could name a command, but does not."""
_COMMAND = re.compile(r"(?:[`(]|: |\bor |\bwith )freshdb ([a-z]+)((?: [^\s;:,`()]+)*)")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*(?![\w{-])")


def parsers(
    parser: argparse.ArgumentParser, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], set[str]]]:
    yield words, set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, below in action.choices.items():
                yield from parsers(below, (*words, word))


COMMANDS = {**dict(parsers(_parser())), ("serve",): set(serve._parser()._option_string_actions)}


def messages(package: str | None) -> Iterator[str]:
    """Find the strings of a package that are no docstrings."""
    assert package is not None
    for path in Path(package).parent.rglob("*.py"):
        tree = ast.parse(path.read_text())
        skipped = {id(one.value) for one in ast.walk(tree) if isinstance(one, ast.Expr)}
        for node in ast.walk(tree):
            if id(node) in skipped:
                continue
            if isinstance(node, ast.JoinedStr):
                skipped |= {id(one) for one in node.values}
                yield "".join(
                    str(one.value) if isinstance(one, ast.Constant) else "{}" for one in node.values
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def wrong_commands(text: str) -> Iterator[str]:
    for word, rest in _COMMAND.findall(text):
        inner = rest.split()[0] if rest else ""
        command = (word, inner) if (word, inner) in COMMANDS else (word,)
        if command in COMMANDS:
            yield from (
                f"{' '.join(command)} {one}" for one in _OPTION.findall(rest) if one not in COMMANDS[command]
            )
        elif word not in PROSE:
            yield f"{word} {inner}"


def test_every_command_that_a_message_names_exists() -> None:
    found = [*messages(freshdb.__file__), *messages(freshdb_service.__file__)]
    assert sum(bool(_COMMAND.search(one)) for one in found) > 30
    assert [(wrong, one) for one in found for wrong in wrong_commands(one)] == []


def test_every_option_that_a_message_of_the_command_line_names_exists() -> None:
    known = set().union(*COMMANDS.values())
    named = {option for one in messages(main.__code__.co_filename) for option in _OPTION.findall(one)}
    assert named - known == set()


def test_wrong_command_and_wrong_option_are_found() -> None:
    assert list(wrong_commands("see: freshdb sql --help")) == ["sql --help"]
    assert list(wrong_commands("see: freshdb token set NAME --max-life 3")) == ["token set --max-life"]
    assert list(wrong_commands("run `freshdb template sql NAME FILE`: no freshdb service answers")) == []


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["template", "sql", "x", "no-such-file.sql"], "template sql"),
        (["template", "build", "x", "--", "true"], "template build"),
        (["token", "set", "x"], "token set"),
        (["run"], "run"),
        (["status", "--watch"], "status"),
    ],
    ids=" ".join,
)
def test_usage_error_points_to_the_help_of_its_own_command(
    words: list[str], command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRESHDB_URL", "http://127.0.0.1:9")
    assert main(words) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"  see: freshdb {command} --help"
    with pytest.raises(SystemExit, match="0"):
        main([*command.split(), "--help"])


@pytest.mark.parametrize(
    ("words", "usage", "error"),
    [
        (
            ["psql", "--template", "x"],
            "psql [options] [TEMPLATE]",
            "without an option: freshdb psql TEMPLATE",
        ),
        (["acquire", "--template=x"], "acquire [-h]", "without an option: freshdb acquire TEMPLATE"),
        (["release", "x", "--lease", "y"], "release [-h]", "without an option: freshdb release ID"),
        (["template", "retire", "x", "--now"], "template retire [-h]", "unrecognized arguments: --now"),
        (["--json", "leases"], "leases [-h]", "write it after the command: freshdb leases --json"),
        (["run", "x", "--", "true"], "run [--template TEMPLATE]", "unrecognized arguments: x"),
        (["leases", "--", "true"], "leases [-h]", "takes nothing after --"),
    ],
    ids=" ".join,
)
def test_unknown_argument_shows_the_usage_of_its_command_and_the_right_form(
    words: list[str], usage: str, error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words)
    shown = capsys.readouterr().err
    assert shown.startswith(f"usage: freshdb {usage}")
    assert error in shown


def test_watch_without_a_terminal_ends_with_a_usage_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRESHDB_URL", "http://127.0.0.1:9")
    assert main(["status", "--watch"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "--watch needs a terminal: add --json" in shown.err
