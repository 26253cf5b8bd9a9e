"""Every message that the page on troubleshooting quotes is in the code."""

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
_MIN_SHARE: Final = 0.8
"""The share of a quoted message, without its values, that must be in one text of the code. The rest is another text."""


def parts_of(source: Path) -> Iterator[list[str]]:
    """Every text of a module, as the parts between its values."""
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


def length(text: str) -> int:
    return len(re.sub(r"…|\s", "", text))


@pytest.fixture(scope="module")
def texts() -> list[tuple[int, re.Pattern[str]]]:
    """The possible messages of the code, with their lengths."""
    shortest = _MIN_SHARE * min(map(length, QUOTED))
    return [
        (size, re.compile(".*".join(map(re.escape, parts))))
        for source in SOURCES
        for parts in parts_of(source)
        if (size := length("".join(parts))) >= shortest and "\n" not in "".join(parts)
    ]


@pytest.mark.parametrize("message", QUOTED)
def test_quoted_message_is_in_the_code(message: str, texts: list[tuple[int, re.Pattern[str]]]) -> None:
    min_length = _MIN_SHARE * length(message)
    assert any(size >= min_length and text.fullmatch(message) for size, text in texts), (
        "the code has no such message"
    )
