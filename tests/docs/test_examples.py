"""The examples of every page, run from top to bottom, as a new user would, with real services."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest
import yaml

from freshdb import Client, ensure_service, stop_service
from tests.docs.pages import FENCE, PAGES, Block, blocks, commands, name
from tools import reference

PAGES_WITH_COMMANDS: Final = [
    page for page in PAGES if any(one.kind in {"run", "fails"} for one in blocks(page))
]
PORT: Final = "8777"
"""The port of the service in the pages. The tests replace it by a free port."""
TIMEOUT_SECONDS: Final = 300.0
PLUGINS: Final = "-p freshdb -p xdist -p asyncio -p no:cacheprovider"
"""The plugins that readers of the pages have, out of all that are installed here."""


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The data directory of the embedded service that all pages share."""
    data = tmp_path_factory.mktemp("data")
    ensure_service(data)
    yield data
    stop_service(data)


class Reader:
    """A reader who runs the blocks of a page. Variables and the directory of a block are kept for the next one."""

    def __init__(self, home: Path, data: Path) -> None:
        self._home = home
        self._state = home.with_name("state")
        self._port = PORT
        self._environment = {
            key: value for key, value in os.environ.items() if not key.startswith(("FRESHDB_", "PYTEST_"))
        } | {
            "FRESHDB_DATA": str(data),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTEST_ADDOPTS": PLUGINS,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PWD": str(home),
        }

    def write(self, block: Block) -> None:
        path = self._home / block.argument
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self._with_free_port(block.text))

    def run(self, block: Block) -> str:
        """Run a block and return its output."""
        script = f"set -a; trap 'env -0 >{self._state}' EXIT\n{self._with_free_port(block.text)}"
        ended = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self._environment["PWD"],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        assert (ended.returncode == 0) == (block.kind == "run"), f"{block.text}\n{ended.stdout}"
        self._environment = dict(
            line.split("=", 1) for line in self._state.read_text().split("\0") if "=" in line
        )
        return ended.stdout.replace(self._port, PORT)

    @contextmanager
    def background(self, block: Block) -> Iterator[None]:
        """Run a block until the context ends, and check that it then exits with 0."""
        self._port = free_port()
        environment = self._environment | {"FRESHDB_DATA": str(self._home.with_name("service"))}
        command = ["bash", "-euc", f"exec {self._with_free_port(block.text)}"]
        with (
            self._home.with_name("log").open("w+") as log,
            subprocess.Popen(
                command, cwd=self._home, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            ) as process,
        ):
            try:
                with Client(f"http://127.0.0.1:{self._port}", retry_seconds=TIMEOUT_SECONDS) as client:
                    assert client.health().version
                yield
            finally:
                process.send_signal(signal.SIGTERM)
                assert process.wait(TIMEOUT_SECONDS) == 0, self._home.with_name("log").read_text()

    def _with_free_port(self, text: str) -> str:
        return text.replace(PORT, self._port)


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return str(listener.getsockname()[1])


@pytest.mark.timeout(900)  # for a machine that has much else to do
@pytest.mark.xdist_group("examples")  # one service for all pages
@pytest.mark.parametrize("page", PAGES_WITH_COMMANDS, ids=name)
def test_examples_of_a_page_work_in_order(page: Path, tmp_path: Path, data: Path) -> None:
    home = tmp_path / "project"
    home.mkdir()
    reader = Reader(home, data)
    printed = ""
    with ExitStack() as services:
        for block in blocks(page):
            match block.kind:
                case "file":
                    reader.write(block)
                case "run" | "fails":
                    printed = reader.run(block)
                case "stays":
                    services.enter_context(reader.background(block))
                case "shows":
                    assert shown(block.text).search(printed), f"{block.text}\nis not in\n{printed}"


def shown(text: str) -> re.Pattern[str]:
    """The pattern of the output that a block shows. Spaces for alignment match any number of spaces."""
    lines = [
        r"[^\n]*?".join(r"\s+".join(map(re.escape, part.split())) for part in re.split(r"\s*…\s*", line))
        for line in text.splitlines()
        if line.strip() not in {"", "…"}
    ]
    return re.compile(r"[\s\S]*?".join(lines))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_has_a_known_mark(page: Path) -> None:
    assert [one for one in blocks(page) if one.kind is None] == []
    directives = len(re.findall(r"^```\{", page.read_text(), re.MULTILINE))
    assert len(FENCE.findall(page.read_text())) == 2 * (len(blocks(page)) + directives), (
        "is a block indented?"
    )


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_blocks_are_valid_in_their_language(page: Path) -> None:
    for block in blocks(page):
        match block.language:
            case "python":
                compile(block.text, name(page), "exec")
            case "sh":
                subprocess.run(["bash", "-n", "-c", block.text], check=True)
            case "toml":
                tomllib.loads(block.text)
            case "yaml":
                yaml.safe_load(block.text)
            case "json":
                for line in block.text.split("\n\n"):
                    json.loads(line)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_named_commands_and_options_exist(page: Path) -> None:
    known = reference.commands()
    for command_line in commands(page):
        words = command_line.split(" -- ")[0].split()
        candidates = (" ".join(["freshdb", *words[:count]]) for count in (2, 1))
        parser = next((known[command] for command in candidates if command in known), None)
        assert parser is not None, command_line
        options = {word.split("=")[0] for word in words if word.startswith("--") and word != "--"}
        assert options <= parser._option_string_actions.keys(), command_line
