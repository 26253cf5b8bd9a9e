"""The README's examples, followed from top to bottom as a new user would, against a real embedded service.

``<!-- example: file NAME -->`` before a code block writes it into the user's directory, ``<!-- example: run -->``
runs it there. Blocks without such a comment are not run (they install, or name what only the reader has).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from freshdb.embedded import running_service, stop_service

README = Path(__file__).parents[2] / "README.md"
BLOCK = re.compile(
    r"^<!-- example: (?P<kind>file|run) ?(?P<name>\S*) -->\n```\w+\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


class Example(NamedTuple):
    kind: str
    name: str
    text: str


def examples() -> list[Example]:
    return [Example(*found.group("kind", "name", "text")) for found in BLOCK.finditer(README.read_text())]


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    data = tmp_path / "data"
    yield data
    stop_service(data)


def test_the_examples_work_from_top_to_bottom(tmp_path: Path, data: Path) -> None:
    home = tmp_path / "project"
    home.mkdir()
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("FRESHDB_", "PYTEST_"))
    }
    environment |= {
        "FRESHDB_DATA": str(data),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    ran = []
    for example in examples():
        if example.kind == "file":
            (home / example.name).write_text(example.text)
            continue
        ended = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", example.text],
            cwd=home,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert ended.returncode == 0, f"{example.text}\n{ended.stdout}\n{ended.stderr}"
        ran.append(ended.stdout)
        service = running_service(data)
        assert service is not None
        environment["FRESHDB_URL"] = service.url  # as the README's reader has it from `freshdb serve` on
    assert "2 passed" in ran[0]
    assert "[('pen',)]" in ran[-1]


def test_every_example_comment_is_understood() -> None:
    assert len(examples()) == README.read_text().count("<!-- example:")
    assert sum(example.kind == "run" for example in examples()) >= 5
