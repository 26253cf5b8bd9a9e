"""Names of freshdb's objects on managed servers: compose, parse and quote them. No other module here quotes.

A name is ``prefix_kind_token`` or ``prefix_kind_token_counter``. The prefix is a setting, the token is twelve hex digits of
a random id, and the counter is the attempt of a build or the generation of a database. **The counter is part of the physical
name**, so no two attempts or generations share a name. A worker that was paused and continues late can only touch the
objects of its own attempt or generation.

==================================  ==============================================================================
``freshdb_t_<token>_<attempt>``     a template's database, and the role that builds it
``freshdb_d_<token>_<generation>``  a database (isolation ``database``), and its login
``freshdb_s_<token>_<generation>``  a schema (isolation ``schema``), and its login
``freshdb_h_<token>``               the database that one pool's schemas share, and the role that owns it and the seed
``freshdb_r_<token>``               the role that may read a shared database's seed
``freshdb_seed_<token>``            the seed: the schema in the shared database that new schemas are copied from
==================================  ==============================================================================

SQL is composed from three kinds of text: constant statements, identifiers through ``quoted``, and values that freshdb
generates through ``literal``, which accepts only a safe alphabet. Every other value is a parameter, or PostgreSQL itself
quotes it (``format('%I, %L', …)``) in the query that reads it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from uuid import UUID

import freshdb_reset

_TOKEN_LENGTH: Final = 12
_PREFIX: Final = re.compile(r"[a-z][a-z0-9]{0,15}")
_SAFE: Final = re.compile(r"[A-Za-z0-9_:$+/=.,-]*")


class Kind(StrEnum):
    """Kind of object that a name belongs to."""

    TEMPLATE = "t"
    DATABASE = "d"
    SCHEMA = "s"
    SHARED = "h"
    READER = "r"
    SEED = "seed"

    @property
    def counted(self) -> bool:
        """True if such names end in a counter."""
        return self in {Kind.TEMPLATE, Kind.DATABASE, Kind.SCHEMA}


@dataclass(frozen=True, slots=True)
class Name:
    """Name of one of freshdb's objects. ``str()`` returns it as the catalogs hold it."""

    prefix: str
    kind: Kind
    token: str
    counter: int | None = None

    @classmethod
    def of(cls, prefix: str, kind: Kind, identifier: UUID, counter: int | None = None) -> Name:
        """Compose the name of the object of this kind that belongs to ``identifier``.

        Raises:
            ValueError: the counter does not fit the kind, or the prefix is malformed.
        """
        if _PREFIX.fullmatch(prefix) is None:
            raise ValueError(
                f"{prefix!r} cannot be a prefix: up to 16 lower-case letters and digits, a letter first"
            )
        if (counter is not None) != kind.counted or (counter is not None and counter < 0):
            raise ValueError(f"a name of kind {kind.name} cannot have the counter {counter}")
        return cls(prefix, kind, token_of(identifier), counter)

    @classmethod
    def parse(cls, prefix: str, text: str) -> Name | None:
        """Parse a name. Return ``None`` if freshdb does not compose exactly this name."""
        match = re.fullmatch(
            rf"{re.escape(prefix)}_([a-z]+)_([0-9a-f]{{{_TOKEN_LENGTH}}})(?:_(0|[1-9][0-9]*))?", text
        )
        if match is None or match[1] not in set(Kind):
            return None
        kind = Kind(match[1])
        counter = int(match[3]) if match[3] is not None else None
        return cls(prefix, kind, match[2], counter) if (counter is not None) == kind.counted else None

    def __str__(self) -> str:
        """Return the name, not quoted."""
        counter = "" if self.counter is None else f"_{self.counter}"
        return f"{self.prefix}_{self.kind}_{self.token}{counter}"


def token_of(identifier: UUID) -> str:
    """Return the token of an id: its last twelve hex digits, which are random in every version of UUID in use."""
    return identifier.hex[-_TOKEN_LENGTH:]


def quoted(name: Name | str) -> str:
    """Quote an identifier.

    Raises:
        ValueError: PostgreSQL accepts no such identifier (empty, longer than 63 bytes, or with a NUL).
    """
    return freshdb_reset.quoted(str(name))


def literal(text: str) -> str:
    """Quote a value that freshdb generated (a stamp, a password's verifier) for a statement that takes no parameters.

    Raises:
        ValueError: the value holds a character that is not safe under every setting of the server.
    """
    if _SAFE.fullmatch(text) is None:
        raise ValueError(
            "only values that freshdb generated may be written into statements: pass others as parameters"
        )
    return f"'{text}'"
