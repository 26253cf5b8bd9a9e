"""Results of probes as JSON, without what differs between any two leases."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Final, TypeAlias

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

_LONGEST: Final = 240
_IDENTIFIERS: Final = (
    (re.compile(r"\bpg_(toast_)?temp_\d+"), r"pg_\1temp_<n>"),
    (re.compile(r"\bpg_toast_\d+"), "pg_toast_<oid>"),
    (re.compile(r"\b(RI_ConstraintTrigger_[ac])_\d+"), r"\1_<oid>"),
    (re.compile(r"\b\d+_\d+_(\d+_not_null)\b"), r"<oid>_\1"),
    (re.compile(r"\bpg_attver=\d+"), "pg_attver=<number>"),
)
"""Names that PostgreSQL makes with the oid of an object or the number of a process. Debian's PostgreSQL 15.20 also stores
``pg_attver`` in ``attoptions`` of each new column, and two fresh schemas have different numbers there."""


class Names:
    """Replaces the names of a lease's database, schema and role by fixed words, unless they are part of a longer word."""

    def __init__(self, names: Mapping[str, str]) -> None:
        """Take the word of each name. One name may have several words only if they are given as one."""
        longest_first = sorted(names, key=len, reverse=True)
        self._words = dict(names)
        choice = "|".join(
            f'"{re.escape(name)}"|(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])' for name in longest_first
        )
        self._pattern = re.compile(choice)

    def hidden(self, text: str) -> str:
        """Return the text with the words in place of the names. A quoted name becomes a word without quotes."""
        text = self._pattern.sub(lambda found: self._words[found.group().strip('"')], text)
        for pattern, replacement in _IDENTIFIERS:
            text = pattern.sub(replacement, text)
        return text

    def plain(self, value: object) -> Json:
        """Return a value of the driver as JSON. A long text is its beginning and its hash."""
        match value:
            case None | bool() | int() | float():
                return value
            case list() | tuple():
                return [self.plain(one) for one in value]
            case dict():
                return {self.hidden(str(key)): self.plain(one) for key, one in value.items()}
            case bytes() | memoryview():
                return self.plain(bytes(value).hex())
            case _:
                return _shortened(self.hidden(str(value)))


def _shortened(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f"{text[: _LONGEST // 2]}… ({len(text)} characters, sha256 {digest})"
