"""A blueprint: the SQL that makes a schema like a template's, with the names left open.

It is written once per pool, with the seed's name and its owner's name in the places where each new schema's and login's
names belong. Both are names of ours, drawn after the template was sealed and unlike anything that can stand in it, so that
replacing them is safe. Where a statement copies *from* the seed, the place of the new schema is held by ``target`` instead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields

from freshdb_service.postgres.names import Name

_ENTRY = re.compile(
    r"^--\n-- Name: (?P<name>.*); Type: (?P<type>.*); Schema: (?P<schema>.*); Owner: .*\n--\n", re.MULTILINE
)
_RESTRICT = re.compile(r"^\\(?:un)?restrict \w+$", re.MULTILINE)
_VERSION_OF_VIEW = re.compile(
    r"^ALTER TABLE ONLY .+ ALTER COLUMN .+ SET \(pg_attver=\d+\);$|\bpg_attver=\d+, |, pg_attver=\d+\b(?=\);$)",
    re.MULTILINE,
)
"""A number that PostgreSQL (from its minor releases of November 2026 on) gives the columns of each view that it makes. Its
own ``pg_dump`` leaves it out, but older ones take it for an option of the column."""


@dataclass(frozen=True, slots=True)
class Blueprint:
    """How to make one more schema in a shared database.

    Attributes:
        shared_database: where.
        seed_schema: the schema that rows are copied from; stands for the new schema in ``before`` and ``after``.
        build_role: the owner of the seed; stands for the new login.
        before: types, functions, tables.
        load: rows and sequences.
        after: indexes, constraints, triggers, policies and all that must not be there while rows are loaded.
    """

    shared_database: str
    seed_schema: str
    build_role: str
    before: str = field(repr=False)
    load: str = field(repr=False)
    after: str = field(repr=False)

    @property
    def target(self) -> str:
        """What stands for the new schema in ``load``."""
        return f"{self.seed_schema}_copy"

    def to_json(self) -> dict[str, str]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, object]) -> Blueprint:
        """Read what ``to_json`` gave.

        Raises:
            KeyError: a part is missing.
        """
        return cls(**{part.name: str(stored[part.name]) for part in fields(cls)})

    def scripts(self, schema: Name) -> tuple[str, str, str]:
        """The three scripts for a new schema and the login of the same name."""
        names = {self.build_role: str(schema)}
        structure = {**names, self.seed_schema: str(schema)}
        return (
            renamed(self.before, structure),
            renamed(self.load, {**names, self.target: str(schema)}),
            renamed(self.after, structure),
        )


def renamed(text: str, names: Mapping[str, str]) -> str:
    """Replace whole identifiers, all at once."""
    pattern = re.compile(r"\b(?:" + "|".join(re.escape(name) for name in names) + r")\b")
    return pattern.sub(lambda match: names[match[0]], text)


def entries(dump: str, schema: str) -> list[str]:
    """Take a dump of one schema apart: one text per object, without what is said about the schema itself.

    Left out are the session's settings at the beginning, and the entries that create the schema, comment on it, or
    grant rights on it: the new schema is made by the service, and is its login's alone.
    """
    text = _VERSION_OF_VIEW.sub("", _RESTRICT.sub("", dump))
    headings = list(_ENTRY.finditer(text))
    ends = [heading.start() for heading in headings[1:]] + [len(text)]
    bodies = [
        _without_closing_comment(text[heading.end() : end]).strip()
        for heading, end in zip(headings, ends, strict=False)
        if heading["type"] != "SCHEMA" and heading["name"] != f"SCHEMA {schema}"
    ]
    return [body for body in bodies if body]


def _without_closing_comment(body: str) -> str:
    return body.rstrip().removesuffix("--\n-- PostgreSQL database dump complete\n--")
