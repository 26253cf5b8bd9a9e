"""The pages of the documentation, and their code blocks.

A comment above each block, which readers do not see, tells the tests how to use the block:

``<!-- example: file NAME -->``         write it into the reader's directory
``<!-- example: run -->``               run it there with bash, which must exit with 0
``<!-- example: fails -->``             run it there with bash, which must exit with another status
``<!-- example: stays -->``             run it in the background until the end of the page: the reader's own service
``<!-- example: shows -->``             compare it with the last output: these lines in this order (``…`` matches all)
``<!-- example: not run: REASON -->``   check its syntax, and the options of ``freshdb`` in it
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[2]
PAGES: Final = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
FENCE: Final = re.compile(r"^ *```", re.MULTILINE)
_BLOCK: Final = re.compile(
    r"^(?:<!-- example: (?P<mark>[^\n]*) -->\n)?```(?P<language>[^\n`]*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_MARK: Final = re.compile(r"file \S+|run|fails|stays|shows|not run: .*\w+ \w+ \w+.*")


class Block(NamedTuple):
    """A code block, the kind of its mark (none if it is unknown), and the argument of the mark."""

    kind: str | None
    argument: str
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    """All code blocks of a page, without MyST's directives."""
    found = []
    for one in _BLOCK.finditer(page.read_text()):
        if not one["language"].startswith("{"):
            mark = one["mark"] or ""
            kind, _, argument = mark.partition(": ") if mark.startswith("not run") else mark.partition(" ")
            found.append(
                Block(kind if _MARK.fullmatch(mark) else None, argument, one["language"], one["text"])
            )
    return found


def commands(page: Path) -> list[str]:
    """The ``freshdb`` commands of a page, in blocks and in sentences."""
    found = re.findall(r"`freshdb ([^`]+)`", _BLOCK.sub("", page.read_text()))
    for block in blocks(page):
        if block.language == "sh":
            text = block.text.replace("\\\n", " ")
            found += re.findall(r"(?:^|\$\(|-- )freshdb ([^\n|)#]*)", text, re.MULTILINE)
    return found


def name(page: Path) -> str:
    """The name of a page in the ids of tests."""
    return str(page.relative_to(ROOT))
