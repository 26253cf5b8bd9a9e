"""A blueprint: the SQL that creates a copy of a template's schema, with placeholders for names.

It is written once per pool. The names of the seed and of its owner are the placeholders for the names of the new schema and
its login. freshdb chooses both names after the template was sealed, and nothing in the template can contain them, so
replacing them is safe. Where a statement copies *from* the seed, ``target`` is the placeholder for the new schema instead.
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
"""A number that PostgreSQL (from its minor releases of November 2026 on) stores for the columns of each view. Their own
``pg_dump`` leaves it out, but an older ``pg_dump`` writes it as an option of the column."""


@dataclass(frozen=True, slots=True)
class Blueprint:
    """The SQL that creates one more schema in a shared database.

    Attributes:
        shared_database: name of the shared database.
        seed_schema: schema that rows are copied from. In ``before`` and ``after``, it is the placeholder for the new schema.
        build_role: owner of the seed. It is the placeholder for the new login.
        before: statements for types, functions and tables.
        load: statements for rows and sequences.
        after: statements for indexes, constraints, triggers, policies, and everything else that must come after the rows.
    """

    shared_database: str
    seed_schema: str
    build_role: str
    before: str = field(repr=False)
    load: str = field(repr=False)
    after: str = field(repr=False)

    @property
    def target(self) -> str:
        """Placeholder for the new schema in ``load``."""
        return f"{self.seed_schema}_copy"

    def to_json(self) -> dict[str, str]:
        """Return JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, object]) -> Blueprint:
        """Read the result of ``to_json``.

        Raises:
            KeyError: a part is missing.
        """
        return cls(**{part.name: str(stored[part.name]) for part in fields(cls)})

    def scripts(self, schema: Name) -> tuple[str, str, str]:
        """Return the three scripts for a new schema and the login of the same name."""
        names = {self.build_role: str(schema)}
        structure = {**names, self.seed_schema: str(schema)}
        return (
            renamed(self.before, structure),
            renamed(self.load, {**names, self.target: str(schema)}),
            renamed(self.after, structure),
        )


def renamed(text: str, names: Mapping[str, str]) -> str:
    """Replace whole identifiers, all in one pass."""
    pattern = re.compile(r"\b(?:" + "|".join(re.escape(name) for name in names) + r")\b")
    return pattern.sub(lambda match: names[match[0]], text)


def entries(dump: str, schema: str) -> list[str]:
    """Split a dump of one schema into one text per object, without the entries for the schema itself.

    The session settings at the beginning are left out, and so are the entries that create the schema, comment on it, or
    grant privileges on it: the service creates the new schema, and only its login has rights on it.
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
