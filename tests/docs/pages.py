"""The pages that are documentation, and the code blocks in them.

Above every block stands a comment, which readers do not see, that says what becomes of it:

``<!-- example: file NAME -->``         it is written into the reader's directory
``<!-- example: run -->``               it is run there by bash, and ends with 0
``<!-- example: fails -->``             it is run, and does not
``<!-- example: stays -->``             it is run in the background until the page ends: a service of the reader's own
``<!-- example: shows -->``             what the block run before it printed: these lines, in this order; ``…`` is anything
``<!-- example: not run: REASON -->``   it cannot be run here; its syntax is checked, and the options of ``freshdb`` in it
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
    """A code block, the kind of its mark (none, if that is not known), and what the mark says besides."""

    kind: str | None
    says: str
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    """All code blocks of a page; MyST's directives are none."""
    found = []
    for one in _BLOCK.finditer(page.read_text()):
        if not one["language"].startswith("{"):
            mark = one["mark"] or ""
            kind, _, says = mark.partition(": ") if mark.startswith("not run") else mark.partition(" ")
            found.append(Block(kind if _MARK.fullmatch(mark) else None, says, one["language"], one["text"]))
    return found


def commands(page: Path) -> list[str]:
    """What the page has readers say to ``freshdb``, in blocks and in the middle of a sentence."""
    found = re.findall(r"`freshdb ([^`]+)`", _BLOCK.sub("", page.read_text()))
    for block in blocks(page):
        if block.language == "sh":
            text = block.text.replace("\\\n", " ")
            found += re.findall(r"(?:^|\$\(|-- )freshdb ([^\n|)#]*)", text, re.MULTILINE)
    return found


def name(page: Path) -> str:
    """How a page is called in the names of tests."""
    return str(page.relative_to(ROOT))
