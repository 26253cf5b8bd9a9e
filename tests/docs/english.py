"""Plain English, measured: three rates over docstrings and Markdown pages.

``python -m tests.docs.english [PATH…]`` prints the rates of each group, or of the paths given, with every place that counts.
Left out are code, headings, link targets, and quoted messages (``> …``), which are texts of the software.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
GROUPS: Final = {
    "service": ["service/src"],
    "client": ["client/src"],
    "tests": ["tests", "tools", "demo"],
    "docs": ["README.md", "docs", "CONTRIBUTING.md", "CHANGELOG.md", "client/README.md", "service/README.md"],
}
_PRONOUN: Final = re.compile(r"\b(somebody|nobody|anybody|everybody|whoever|whomever)\b", re.IGNORECASE)
_QUESTION_WORD: Final = re.compile(r"(What|Who|Whether|How)\b")
_ENTRY: Final = re.compile(r"^\s*(?:[-*]\s+)?(?:``?[^`]+``?|\*{0,2}[\w.]+)(?: \([^)]*\))?: (?=\S)")
"""The name before a description: of an argument or attribute, or in a list."""
_END: Final = re.compile(r"(?<=[.!?;:])[)\"']*\s+(?=[A-Z`\"(])")
_WORD: Final = re.compile(r"[A-Za-z][\w'-]*")


@dataclass(slots=True)
class Rates:
    """The counts of some text."""

    words: int = 0
    sentences: int = 0
    pronouns: list[str] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    semicolons: list[str] = field(default_factory=list)

    @property
    def pronouns_per_1000(self) -> float:
        """``somebody``, ``nobody``, ``anybody``, ``everybody``, ``whoever`` and ``whomever``, per 1,000 words."""
        return 1000 * len(self.pronouns) / max(self.words, 1)

    @property
    def questions_percent(self) -> float:
        """Statements that begin with ``What``, ``Who``, ``Whether`` or ``How``, of all sentences."""
        return 100 * len(self.questions) / max(self.sentences, 1)

    @property
    def semicolons_per_1000(self) -> float:
        """Semicolons per 1,000 words."""
        return 1000 * len(self.semicolons) / max(self.words, 1)


def rates(paths: Iterable[Path], root: Path = ROOT) -> Rates:
    """Count in all docstrings of Python files, and all prose of Markdown files, below ``paths``.

    Args:
        paths: files and directories.
        root: the directory to which the places are relative.
    """
    found = Rates()
    for path in files(paths):
        for line, paragraph in pieces(path):
            _count(found, paragraph, f"{path.relative_to(root)}:{line}")
    return found


def files(paths: Iterable[Path]) -> Iterator[Path]:
    """Each file with English text."""
    for path in paths:
        if path.is_file():
            yield path
        else:
            yield from sorted(one for one in path.rglob("*") if one.suffix in {".py", ".md"})


def pieces(path: Path) -> Iterator[tuple[int, str]]:
    """Each paragraph, list item, cell and entry of a file, with its line, without headings and code."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        yield from _paragraphs(_prose(text), 1)
        return
    for node in ast.walk(ast.parse(text)):
        body = getattr(node, "body", None)
        for one in body if isinstance(body, list) else []:
            if (
                isinstance(one, ast.Expr)
                and isinstance(one.value, ast.Constant)
                and isinstance(one.value.value, str)
            ):
                docstring = one.value.value
                blank = len(docstring) - len(docstring.lstrip("\n"))
                yield from _paragraphs(inspect.cleandoc(docstring), one.lineno + blank)


def _prose(page: str) -> str:
    """Return a page without its code, headings, comments and quoted messages."""
    kept: list[str] = []
    fence = ""
    for line in page.splitlines():
        opening = re.match(r"\s*(`{3,}|~{3,})", line)
        if opening and (not fence or line.strip().startswith(fence)):
            fence = "" if fence else opening[1]
            kept.append("")
        elif fence or line.startswith("#") or re.match(r"\s*(<!--|>|\||$)", line):
            kept.append(line if line.lstrip().startswith("|") and not fence else "")
        else:
            kept.append(line)
    return "\n".join(kept)


def _paragraphs(text: str, first: int) -> Iterator[tuple[int, str]]:
    """Paragraphs. A list item, an entry and a cell of a table are paragraphs of their own."""
    gathered: list[str] = []
    start = first
    code = False
    for number, line in enumerate([*text.splitlines(), ""], start=first):
        if code and (not line.strip() or line.startswith((" ", "\t"))):
            continue
        code = False
        new = not line.strip() or re.match(r"\s*([-*]|\d+\.)\s|\s*\|", line) or _ENTRY.match(line)
        if new and gathered:
            paragraph = " ".join(gathered)
            yield start, paragraph
            code = paragraph.endswith("::")
            gathered = []
        if line.lstrip().startswith("|"):
            for cell in line.strip().strip("|").split("|"):
                if cell.strip(" -:"):
                    yield number, cell.strip()
        elif line.strip():
            start = start if gathered else number
            gathered.append(line.strip())


def _count(found: Rates, paragraph: str, where: str) -> None:
    plain = re.sub(r"``.*?``|`[^`]*`|https?://[^\s)]+", "`code`", _ENTRY.sub("", paragraph))
    plain = re.sub(r"\]\([^)]*\)", "]", plain)
    plain = re.sub(r"^(?:[-*]|\d+\.)\s+", "", plain.replace("**", ""))
    found.words += len(_WORD.findall(plain))
    sentences = [one for one in _END.split(plain) if _WORD.search(one)]
    found.sentences += len(sentences)
    for sentence in sentences:
        shown = f"{where}: {sentence}"
        found.pronouns += [shown] * len(_PRONOUN.findall(sentence))
        found.semicolons += [shown] * sentence.count(";")
        first = sentence.lstrip("(\"'*_")
        if _QUESTION_WORD.match(first[:1].upper() + first[1:]) and not sentence.rstrip(" )\"'*_").endswith(
            "?"
        ):
            found.questions.append(shown)


def main(paths: list[str]) -> None:
    """Print the rates, and the places that count."""
    for name, places in {"": paths}.items() if paths else GROUPS.items():
        found = rates(ROOT / place for place in places)
        if paths:
            print(*found.pronouns, *found.questions, *found.semicolons, sep="\n")  # noqa: T201
        print(  # noqa: T201
            f"{name or 'these'}: {found.words} words; pronouns {found.pronouns_per_1000:.2f} per 1,000 (hold < 0.2); "
            f"statements that begin as a question {found.questions_percent:.1f} % (hold < 0.8); "
            f"semicolons {found.semicolons_per_1000:.1f} per 1,000 (hold < 2.2)"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
