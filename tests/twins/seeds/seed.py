"""One seeded difference."""

from __future__ import annotations

from dataclasses import dataclass

from tests.twins.probes import Isolation


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """One difference.

    Args:
        name: the difference.
        probe: the probe that must find it.
        sql: statements of the holder, or of the superuser.
        superuser: the superuser runs them.
        held: the session stays open during the observation.
        isolation: isolation of the clone.
    """

    name: str
    probe: str
    sql: tuple[str, ...]
    superuser: bool = False
    held: bool = False
    isolation: Isolation = "database"


def seed(name: str, probe: str, *sql: str, superuser: bool = False, held: bool = False) -> Seed:
    """Return a difference in a database of its own."""
    return Seed(name=name, probe=probe, sql=sql, superuser=superuser, held=held)
