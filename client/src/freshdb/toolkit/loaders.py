"""Loaders of test data from Python, JSON, YAML and CSV: rows by table, with optional names.

A value is text as PostgreSQL reads it (``"2026-05-01"`` for a date), or a reference to another row. ``@name`` is the value
that the foreign key refers to in that row. ``@name.column`` is the value of a column. ``@@`` is a single ``@``.
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
"""``{table: [row, …]}`` or ``{table: {name: row, …}}``, or the path of a file with it. A CSV file has its table's name."""

NAME_COLUMN: Final = "@"
"""The column with the names of the rows, in a CSV file."""


@dataclass(frozen=True, slots=True)
class GivenRow:
    """One row of the test data, as it is written there.

    Attributes:
        table: table of the row.
        name: name by which other rows refer to it.
        values: values by column, or by the name of a referenced table.
        location: file, table and row, for messages.
    """

    table: str
    name: str | None
    values: Mapping[str, Any]
    location: str


def load_rows(source: Source) -> list[GivenRow]:
    """Load all rows of a source.

    Raises:
        DataInvalid: the source has another structure, or the type of the file is not supported. The message names the place.
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
                    raise DataInvalid(f"{file}: each line must have one value per column")
                return {file.stem: [{name: value for name, value in row.items() if value} for row in rows]}
    except (OSError, ValueError, csv.Error, yaml.YAMLError) as error:
        raise DataInvalid(f"{file}: {error}") from error
    raise DataInvalid(f"{file}: this type of file is not supported: use .yaml, .json, .csv or .sql")


def _rows(given: object, location: str) -> Iterator[GivenRow]:
    if not isinstance(given, Mapping):
        raise DataInvalid(f"{location}: expected tables with their rows, not {type(given).__name__}")
    for table, rows in given.items():
        where = f"{location}, table {table}"
        if isinstance(rows, Mapping):
            named: Sequence[tuple[str | None, Any]] = [(str(name), row) for name, row in rows.items()]
        elif isinstance(rows, Sequence) and not isinstance(rows, str):
            named = [(None, row) for row in rows]
        else:
            raise DataInvalid(f"{where}: expected a list of rows, or rows by name, not {type(rows).__name__}")
        for number, (name, row) in enumerate(named, 1):
            here = f"{where}, row {name or number}"
            if not isinstance(row or {}, Mapping):
                raise DataInvalid(f"{here}: expected values by column, not {type(row).__name__}")
            values = {str(column): value for column, value in (row or {}).items()}
            own = values.pop(NAME_COLUMN, None)
            yield GivenRow(str(table), name if own is None else str(own), values, here)
