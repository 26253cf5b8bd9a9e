"""Differences between rows, for error messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Row: TypeAlias = Mapping[str, Any]
Rows: TypeAlias = Sequence[Row]

Snapshot: TypeAlias = Mapping[str, tuple[Rows, tuple[str, ...]]]
"""By table: the rows, and the columns of the primary key."""


@dataclass(frozen=True, slots=True)
class TableChanges:
    """The changes of a table between two snapshots.

    Attributes:
        added: new rows.
        removed: rows that no longer exist.
        changed: rows with the same primary key and other values, as they are now.
    """

    added: Rows = ()
    removed: Rows = ()
    changed: Rows = ()

    def by_kind(self) -> Mapping[str, Rows]:
        """Return the rows by ``added``, ``removed`` and ``changed``."""
        return {"added": self.added, "removed": self.removed, "changed": self.changed}


def changes_between(before: Snapshot, after: Snapshot) -> dict[str, TableChanges]:
    """Return the changes of each table that has changed."""
    found: dict[str, TableChanges] = {}
    for name, (rows, key) in before.items():
        then, now = _by_key(rows, key), _by_key(after[name][0], key)
        changes = TableChanges(
            [row for one, row in now.items() if one not in then],
            [row for one, row in then.items() if one not in now],
            [row for one, row in now.items() if one in then and row != then[one]],
        )
        if changes != TableChanges([], [], []):
            found[name] = changes
    return found


def compare_rows(expected: Rows, found: Rows) -> tuple[list[Row], list[Row]]:
    """Match rows with expected ones, which need not have every column, and return the missing and the unexpected rows."""
    missing, unexpected = list[Row](), list(found)
    for one in expected:
        match = next((row for row in unexpected if _matches(row, one)), None)
        if match is None:
            missing.append(one)
        else:
            unexpected.remove(match)
    return missing, unexpected


def describe(name: str, missing: Rows, unexpected: Rows) -> str:
    """Format missing and unexpected rows, one on each line."""
    lines = [f"{name}: - is missing, + is unexpected"]
    lines += sorted(f"  - {_format(row)}" for row in missing)
    lines += sorted(f"  + {_format(row)}" for row in unexpected)
    return "\n".join(lines)


def _by_key(rows: Rows, key: Sequence[str]) -> dict[tuple[object, ...], Row]:
    """Return the rows by primary key. Without one, equal rows are numbered."""
    if key:
        return {tuple(row[column] for column in key): row for row in rows}
    counts = Counter[str]()
    found: dict[tuple[object, ...], Row] = {}
    for row in rows:
        counts[text := _format(row)] += 1
        found[text, counts[text]] = row
    return found


def _matches(row: Row, expected: Row) -> bool:
    return all(column in row and _equal(row[column], value) for column, value in expected.items())


def _equal(found: object, expected: object) -> bool:
    """Compare two values. A date, a UUID and similar values also equal their text."""
    if found == expected:
        return True
    texts: Iterable[str] = (str(found), found.isoformat() if hasattr(found, "isoformat") else "")
    return isinstance(expected, str) and not isinstance(found, str | None) and expected in texts


def _format(row: Row) -> str:
    return ", ".join(f"{column}: {value}" for column, value in row.items())
