r"""Split a SQL script into statements as ``psql -f`` does, with the data that follows ``COPY … FROM stdin``.

psql sends a statement at each semicolon outside of quotes, comments, parentheses and bodies of ``BEGIN ATOMIC``. The rules
are those of its scanner (``src/fe_utils/psqlscan.l`` in PostgreSQL), with ``standard_conforming_strings`` on. Commands of
psql itself are refused, except ``\restrict`` and ``\unrestrict``, which pg_dump writes around its output.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

_BYTE_ORDER_MARK: Final = "\ufeff"
_IN_NAME: Final = r"A-Za-z0-9_\x80-\U0010ffff"
_PARTS: Final = rf"""
      (?P<comment>/\*)
    | (?P<escaped>(?<![{_IN_NAME}$])[eE]')
    | (?P<string>')
    | (?P<name>")
    | (?P<dollar>(?<![{_IN_NAME}$])\$(?:(?![0-9])[{_IN_NAME}]+)?\$)
    | (?P<mark>[();\\])
"""
_PART: Final = re.compile(rf"(?P<blank>--[^\n]*)|{_PARTS}", re.VERBOSE)
_TOKEN: Final = re.compile(
    rf"(?P<blank>\s+|--[^\n]*)|{_PARTS}|(?P<word>(?![0-9])[{_IN_NAME}][{_IN_NAME}$]*)|(?P<other>.)",
    re.VERBOSE | re.DOTALL,
)
_END_OF_STRING: Final = re.compile(r"[^']*(?:''[^']*)*'")
_END_OF_ESCAPED: Final = re.compile(r"[^'\\]*(?:(?:''|\\.)[^'\\]*)*'", re.DOTALL)
_END_OF_NAME: Final = re.compile(r'[^"]*(?:""[^"]*)*"')
_COMMENT_MARK: Final = re.compile(r"/\*|\*/")
_LINE: Final = re.compile(r"[^\n]*\n?")
_END_OF_DATA: Final = re.compile(r"^\\\.\r?(?:\n|\Z)", re.MULTILINE)
_BLANK_REST: Final = re.compile(r"[ \t\r]*(?:--[^\n]*)?(?:\n|\Z)")
_RESTRICTION: Final = re.compile(r"\\(?:un)?restrict[ \t]+[A-Za-z0-9]+\s*")
_PSQL_HINT: Final = "remove the commands of psql, or build the template with psql in a build of your own"
_FIRST_WORDS: Final = 4
"""Number of words that tell a statement: CREATE OR REPLACE FUNCTION."""
_BODY: Final = re.compile(r"create (?:or replace )?(?:function|procedure)\b")


class NoStatement(Exception):
    """A part of a script is no SQL. ``at`` is its offset in the script, and ``hint`` the remedy."""

    def __init__(self, message: str, at: int, *, hint: str) -> None:
        super().__init__(message)
        self.at = at
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a script.

    Attributes:
        text: the statement, with its semicolon.
        start: offset in the script, from 0.
        copies: the direction of ``COPY … FROM stdin`` or ``COPY … TO stdout``.
        data: rows for ``COPY … FROM stdin``, as they stand in the script.
        data_start: offset of the rows in the script.
    """

    text: str
    start: int
    copies: Literal["in", "out"] | None = None
    data: str = field(default="", repr=False)
    data_start: int = 0


def split(script: str) -> Iterator[Statement]:
    """Yield the statements of a script, in order.

    Raises:
        NoStatement: it has a command of psql, or text behind ``COPY … FROM stdin;`` on the same line.
    """
    cursor = len(_BYTE_ORDER_MARK) if script.startswith(_BYTE_ORDER_MARK) else 0
    while (scanned := _Scan(script, cursor)).read():
        statement = scanned.statement
        cursor = scanned.cursor
        if statement.copies == "in":
            blank = _BLANK_REST.match(script, cursor)
            if blank is None:
                raise NoStatement(
                    "text follows COPY … FROM stdin on its line",
                    cursor,
                    hint="begin a new line after the semicolon",
                )
            end = _END_OF_DATA.search(script, blank.end())
            data = script[blank.end() : end.start() if end else len(script)]
            statement = Statement(statement.text, statement.start, "in", data, blank.end())
            cursor = end.end() if end else len(script)
        yield statement


class _Scan:
    """Reads one statement from an offset on."""

    def __init__(self, script: str, cursor: int) -> None:
        self.cursor = cursor
        self._script = script
        self._start: int | None = None
        self._parentheses = 0
        self._bodies = 0
        self._first_words: list[str] = []
        self._last_word = ""
        self._is_copy = False
        self._is_function = False
        self._copies: Literal["in", "out"] | None = None

    def read(self) -> bool:
        """Read to the end of the statement. Return false if there is none."""
        while token := self._next():
            kind, at = token.lastgroup, token.start()
            self.cursor = token.end()
            if kind == "blank":
                continue
            if kind == "comment":
                self._skip_comment()
                continue
            if token.group() == ";" and self._start is None:
                continue
            if token.group() == "\\":
                self._skip_restriction(at)
                continue
            if self._start is None:
                self._start = at
            if token.group() == ";" and self._parentheses <= 0 and self._bodies == 0:
                return True
            self._note(kind, token.group())
        self.cursor = len(self._script)
        return self._start is not None

    @property
    def statement(self) -> Statement:
        """The statement that was read."""
        start = self._start or 0
        return Statement(self._script[start : self.cursor], start, self._copies)

    def _next(self) -> re.Match[str] | None:
        """Return the next token. Words only count at the beginning, in COPY, and in functions."""
        if len(self._first_words) < _FIRST_WORDS or self._is_copy or self._is_function:
            return _TOKEN.match(self._script, self.cursor)
        return _PART.search(self._script, self.cursor)

    def _note(self, kind: str | None, text: str) -> None:
        match kind:
            case "string":
                self._skip(_END_OF_STRING)
            case "escaped":
                self._skip(_END_OF_ESCAPED)
            case "name":
                self._skip(_END_OF_NAME)
            case "dollar":
                end = self._script.find(text, self.cursor)
                self.cursor = len(self._script) if end < 0 else end + len(text)
            case "mark":
                self._parentheses += {"(": 1, ")": -1}.get(text, 0)
            case "word":
                self._note_word(text.lower())
            case _:
                pass

    def _note_word(self, word: str) -> None:
        if len(self._first_words) < _FIRST_WORDS:
            self._first_words.append(word)
            self._is_copy = self._first_words[0] == "copy"
            self._is_function = bool(_BODY.match(" ".join(self._first_words)))
        if self._parentheses == 0:
            if self._is_copy:
                self._copies = _COPIES.get((self._last_word, word), self._copies)
            elif self._is_function and word in _BODY_WORDS:
                self._note_body(word)
        self._last_word = word

    def _note_body(self, word: str) -> None:
        if word == "begin" or (word == "case" and self._bodies):
            self._bodies += 1
        elif word == "end" and self._bodies:
            self._bodies -= 1

    def _skip(self, end: re.Pattern[str]) -> None:
        found = end.match(self._script, self.cursor)
        self.cursor = found.end() if found else len(self._script)

    def _skip_comment(self) -> None:
        depth = 1
        while depth and (mark := _COMMENT_MARK.search(self._script, self.cursor)):
            depth += 1 if mark.group() == "/*" else -1
            self.cursor = mark.end()
        if depth:
            self.cursor = len(self._script)

    def _skip_restriction(self, at: int) -> None:
        line = _LINE.match(self._script, at)
        text = line.group() if line else ""
        if self._start is not None or not _RESTRICTION.fullmatch(text):
            raise NoStatement(f"{text.split()[0]} is a command of psql, and no SQL", at, hint=_PSQL_HINT)
        self.cursor = at + len(text)


_BODY_WORDS: Final = frozenset({"begin", "case", "end"})
_COPIES: Final[dict[tuple[str, str], Literal["in", "out"]]] = {
    ("from", "stdin"): "in",
    ("to", "stdout"): "out",
}
