"""A full description of a database from outside, without freshdb's code.

A *snapshot* is a flat mapping from the thing that was read to its value. It has two parts:

* SQL. A superuser's connection reads the rows of every table, sequences, large objects, the catalogs row by row (OIDs
  are left to the dump), roles with their memberships and settings, sessions, locks and prepared transactions. The holder's
  URL shows the databases that it may connect to, and its settings.
* A schema dump of the newest ``pg_dump``, with owners, privileges, comments and the database's properties, split into one
  entry per object.

The names of the lease (its database, schema and login, each new in every generation) are replaced by a placeholder. Names of
*earlier* generations are not replaced, so the snapshots differ if one still appears.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import LiteralString

import psycopg

from tests.hygiene import queries
from tests.services import with_database

Snapshot = Mapping[str, str]

_HEADING = re.compile(r"^--\n-- Name: (.*); Type: (.*); Schema: (.*); Owner: (.*)\n--\n", re.MULTILINE)
_NOISE = re.compile(r"^\\(?:un)?restrict \w+\n|^-- Dumped .*\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Subject:
    """The database that is judged.

    Attributes:
        superuser: DSN of a superuser, for any database of the server.
        url: URL of the holder.
        database: name of the database.
        user: login of the lease.
        schema: schema of the lease, for isolation ``schema``.
    """

    superuser: str
    url: str = field(repr=False)
    database: str
    user: str
    schema: str | None

    @property
    def inside(self) -> str:
        """DSN of a superuser, in this database."""
        return with_database(self.superuser, self.database)

    @property
    def family(self) -> str:
        """Common beginning of the names of all generations of this login."""
        return self.user.rpartition("_")[0] + "_"

    def anonymous(self, text: str) -> str:
        """Replace the lease's names, and the number that PostgreSQL stores for each view."""
        names = {self.user: "{lease}", self.database: "{shared}" if self.schema else "{lease}"}
        if self.schema:
            names[self.schema] = "{lease}"
        pattern = "|".join(re.escape(name) for name in names)
        text = re.sub(rf"\b(?:{pattern})\b", lambda match: names[match[0]], text)
        return re.sub(r"\bpg_attver=\d+", "pg_attver={number}", text)


@dataclass(slots=True)
class Snapshotter:
    """Takes snapshots. ``pg_dump`` is the path of the program."""

    pg_dump: Path
    _catalog_queries: dict[int, str] = field(default_factory=dict)

    def snapshot(self, subject: Subject) -> Snapshot:
        """Return the whole snapshot."""
        return {key: value for _, part in self.parts(subject) for key, value in part.items()}

    def parts(self, subject: Subject) -> Iterator[tuple[str, Snapshot]]:
        """Return the snapshot part by part, cheapest first, each with the beginning of its keys."""
        try:
            with psycopg.connect(subject.inside, autocommit=True) as connection:
                connection.execute(
                    "SET search_path = pg_catalog; SET timezone = 'UTC'; SET extra_float_digits = 3"
                )
                names = {"family": subject.family, "user": subject.user}
                yield _part(subject, "cluster", connection.execute(_literal(queries.CLUSTER), names))
                tables = ";".join(row[0] for row in connection.execute(_literal(queries.CONTENTS)))
                yield _part(subject, "content", _all_of(connection, tables))
                yield _part(subject, "catalogs", _all_of(connection, self._catalogs(connection)))
        except psycopg.OperationalError as error:
            yield _part(subject, "cluster", [("superuser is refused", _reason(error))])
        yield _part(subject, "holder", _as_holder(subject))
        yield "dump", self.dump(subject)

    def differs(self, wanted: Snapshot, subject: Subject) -> bool:
        """Return whether there is a difference. It stops at the first."""
        return any(
            {key: value for key, value in wanted.items() if key.startswith(f"{name}: ")} != found
            for name, found in self.parts(subject)
        )

    def dump(self, subject: Subject) -> Snapshot:
        """Return the entries of ``pg_dump``."""
        done = subprocess.run(
            [
                *(self.pg_dump, f"--dbname={subject.inside}", "--schema-only", "--create"),
                *("--exclude-schema=*_seed_*", "--exclude-schema=pg_temp*"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            return _part(subject, "dump", [("failed", done.stderr)])[1]
        text = _NOISE.sub("", done.stdout)
        headings = list(_HEADING.finditer(text))
        ends = [heading.start() for heading in headings[1:]] + [len(text)]
        entries = (
            (f"{heading[2]} {heading[1]}", f"owner {heading[4]}: {text[heading.end() : end].strip()}")
            for heading, end in zip(headings, ends, strict=False)
        )
        return _part(subject, "dump", entries)[1]

    def _catalogs(self, connection: psycopg.Connection) -> str:
        version = connection.info.server_version
        if version not in self._catalog_queries:
            columns: dict[str, list[str]] = {}
            for catalog, column in connection.execute(
                queries.COLUMNS, [list(queries.CATALOGS), list(queries.IGNORED)]
            ):
                columns.setdefault(catalog, []).append(column)
            self._catalog_queries[version] = queries.catalogs(columns)
        return self._catalog_queries[version]


def differences(wanted: Snapshot, found: Snapshot) -> list[str]:
    """Return the differences, one line each. Equal snapshots have none."""
    lines = []
    for key in sorted({*wanted, *found}):
        if key not in found:
            lines.append(f"missing: {key}: {_shortened(wanted[key])}")
        elif key not in wanted:
            lines.append(f"unexpected: {key}: {_shortened(found[key])}")
        elif wanted[key] != found[key]:
            lines.append(f"changed: {key}: {_shortened(wanted[key])}  became  {_shortened(found[key])}")
    return lines


def _as_holder(subject: Subject) -> list[tuple[str, str]]:
    try:
        with psycopg.connect(subject.url, autocommit=True) as connection:
            return connection.execute(queries.AS_HOLDER).fetchall()
    except psycopg.OperationalError as error:
        return [("refused", _reason(error))]


def _all_of(connection: psycopg.Connection, queries: str) -> list[tuple[str, str | None]]:
    """Run queries in one round trip. (Planning one united query would take longer than running these.)"""
    if not queries:
        return []
    cursor = connection.execute(_literal(queries))
    rows: list[tuple[str, str | None]] = cursor.fetchall()
    while cursor.nextset():
        rows += cursor.fetchall()
    return rows


def _part(subject: Subject, name: str, rows: Iterable[tuple[str, str | None]]) -> tuple[str, dict[str, str]]:
    """Return the entries under anonymous names. A second entry of the same name gets a number."""
    text = "\0".join(f"{key}\1{value or ''}" for key, value in rows)
    part: dict[str, str] = {}
    seen_times: Counter[str] = Counter()
    for pair in sorted(subject.anonymous(text).split("\0")) if text else []:
        key, _, value = pair.partition("\1")
        seen_times[key] += 1
        part[f"{name}: {key}" if seen_times[key] == 1 else f"{name}: {key} ({seen_times[key]})"] = value
    return name, part


def _reason(error: psycopg.Error) -> str:
    return str(error).rpartition("FATAL:")[2].strip()


def _shortened(text: str, most: int = 600) -> str:
    return text if len(text) <= most else f"{text[:most]}… ({len(text)} characters)"


def _literal(sql: str) -> LiteralString:
    """Satisfy the driver's types: the text is composed of constants and of names that the server has quoted."""
    return sql  # type: ignore[return-value, unused-ignore]
