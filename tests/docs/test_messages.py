"""The messages that the page on troubleshooting quotes are those that the code has."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.docs.pages import ROOT

PAGE: Final = ROOT / "docs" / "troubleshooting.md"
SOURCES: Final = [*(ROOT / "client" / "src").rglob("*.py"), *(ROOT / "service" / "src").rglob("*.py")]
QUOTED: Final = re.findall(r"^> (.+)$", PAGE.read_text(), re.MULTILINE)
_LEAST_SHARE: Final = 0.8
"""How much of a quoted message, what differs left aside, has to stand in the code; the rest is another text, put into it."""


def texts(source: Path) -> Iterator[list[str]]:
    """Every text of a module: the parts between which values are put."""
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.JoinedStr):
            parts = [""]
            for value in node.values:
                if isinstance(value, ast.Constant):
                    parts[-1] += str(value.value)
                else:
                    parts.append("")
            yield parts
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value.split("%s")


@pytest.fixture(scope="module")
def known() -> list[list[str]]:
    return [parts for source in SOURCES for parts in texts(source)]


@pytest.mark.parametrize("message", QUOTED)
def test_a_quoted_message_is_one_of_the_code(message: str, known: list[list[str]]) -> None:
    said = len(re.sub(r"…|\s", "", message))
    assert any(
        len(re.sub(r"\s", "", "".join(parts))) >= _LEAST_SHARE * said
        and re.fullmatch(".*".join(map(re.escape, parts)), message)
        for parts in known
    ), "the code has no such message"
