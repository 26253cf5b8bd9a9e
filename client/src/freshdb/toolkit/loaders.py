"""Where test data comes from: Python, JSON, YAML, CSV. All of them say, per table, its rows; a row may have a name.

A value is what PostgreSQL would read (``"2026-05-01"`` for a date), or ``@name``: what another row is known by there, or
``@name.column``. ``@@`` stands for a single ``@``.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import yaml

from freshdb.toolkit.errors import DataInvalid

Source: TypeAlias = "Mapping[str, Any] | Path"
"""``{table: [row, …]}`` or ``{table: {name: row, …}}``, or a file of it; a CSV file is called after its table."""

NAME_COLUMN: Final = "@"
"""In a CSV file, this column has the rows' names."""


@dataclass(frozen=True, slots=True)
class GivenRow:
    """One row, as somebody wrote it.

    Attributes:
        table: where it belongs.
        name: what others call it.
        values: by column, or by what the column refers to.
        place: where it was written, for messages.
    """

    table: str
    name: str | None
    values: Mapping[str, Any]
    place: str


def rows_of(source: Source) -> list[GivenRow]:
    """Read a source.

    Raises:
        DataInvalid: it has another shape, or this is no file of a kind that is known; names the place.
    """
    if isinstance(source, Path):
        return list(_rows(_read(source), str(source)))
    return list(_rows(source, "the data"))


def _read(file: Path) -> object:
    try:
        text = file.read_text()
        match file.suffix:
            case ".yaml" | ".yml":
                return yaml.safe_load(text) or {}
            case ".json":
                return json.loads(text)
            case ".csv":
                rows = list(csv.DictReader(text.splitlines(), strict=True))
                if any(None in row or None in row.values() for row in rows):
                    raise DataInvalid(f"{file}: every line needs as many values as the first has names")
                return {file.stem: [{name: value for name, value in row.items() if value} for row in rows]}
    except (OSError, ValueError, csv.Error, yaml.YAMLError) as error:
        raise DataInvalid(f"{file}: {error}") from error
    raise DataInvalid(f"{file}: data comes from .yaml, .json, .csv or .sql files")


def _rows(given: object, place: str) -> Iterator[GivenRow]:
    if not isinstance(given, Mapping):
        raise DataInvalid(f"{place}: wanted tables and their rows, not {type(given).__name__}")
    for table, rows in given.items():
        where = f"{place}, table {table}"
        if isinstance(rows, Mapping):
            named: Sequence[tuple[str | None, Any]] = [(str(name), row) for name, row in rows.items()]
        elif isinstance(rows, Sequence) and not isinstance(rows, str):
            named = [(None, row) for row in rows]
        else:
            raise DataInvalid(f"{where}: wanted a list of rows, or rows by name, not {type(rows).__name__}")
        for number, (name, row) in enumerate(named, 1):
            here = f"{where}, row {name or number}"
            if not isinstance(row or {}, Mapping):
                raise DataInvalid(f"{here}: wanted values by column, not {type(row).__name__}")
            values = {str(column): value for column, value in (row or {}).items()}
            own = values.pop(NAME_COLUMN, None)
            yield GivenRow(str(table), name if own is None else str(own), values, here)
