"""What differs between rows, for people to read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Row: TypeAlias = Mapping[str, Any]
Rows: TypeAlias = Sequence[Row]

Snapshot: TypeAlias = Mapping[str, tuple[Rows, tuple[str, ...]]]
"""By table: its rows, and the columns of its primary key."""


@dataclass(frozen=True, slots=True)
class TableChanges:
    """What became of a table.

    Attributes:
        added: rows that were not there.
        removed: rows that are no longer there.
        changed: rows that were there, by their primary key, as they are now.
    """

    added: Rows = ()
    removed: Rows = ()
    changed: Rows = ()

    def kinds(self) -> Mapping[str, Rows]:
        """By what happened."""
        return {"added": self.added, "removed": self.removed, "changed": self.changed}


def changes_between(before: Snapshot, after: Snapshot) -> dict[str, TableChanges]:
    """What became of each table; those are left out that nothing became of."""
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


def unlike(expected: Rows, found: Rows) -> tuple[list[Row], list[Row]]:
    """Match rows with expected ones, which need not name every column; give those missing, and those left over."""
    missing, left = list[Row](), list(found)
    for wanted in expected:
        match = next((row for row in left if _fits(row, wanted)), None)
        if match is None:
            missing.append(wanted)
        else:
            left.remove(match)
    return missing, left


def told(what: str, missing: Rows, more: Rows) -> str:
    """Show both, one row a line."""
    lines = [f"{what}: - is missing, + should not be there"]
    lines += sorted(f"  - {_shown(row)}" for row in missing)
    lines += sorted(f"  + {_shown(row)}" for row in more)
    return "\n".join(lines)


def _by_key(rows: Rows, key: Sequence[str]) -> dict[tuple[object, ...], Row]:
    """Without a primary key, rows that are the same are counted."""
    if key:
        return {tuple(row[column] for column in key): row for row in rows}
    seen = Counter[str]()
    found: dict[tuple[object, ...], Row] = {}
    for row in rows:
        seen[shown := _shown(row)] += 1
        found[shown, seen[shown]] = row
    return found


def _fits(row: Row, wanted: Row) -> bool:
    return all(column in row and _same(row[column], value) for column, value in wanted.items())


def _same(found: object, wanted: object) -> bool:
    """A date, a UUID or the like may be written as text."""
    if found == wanted:
        return True
    texts: Iterable[str] = (str(found), found.isoformat() if hasattr(found, "isoformat") else "")
    return isinstance(wanted, str) and not isinstance(found, str) and found is not None and wanted in texts


def _shown(row: Row) -> str:
    return ", ".join(f"{column}: {value}" for column, value in row.items())
