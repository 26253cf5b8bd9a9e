"""A probe: one observation of a database by the login of its lease, and the bounds within which twins may differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal, TypeAlias

from tests.twins.probes.session import Session
from tests.twins.probes.values import Json

Isolation: TypeAlias = Literal["database", "schema"]
BOTH: Final[frozenset[Isolation]] = frozenset(("database", "schema"))
DATABASE: Final[frozenset[Isolation]] = frozenset(("database",))
NEWEST: Final = 99


class Stage(StrEnum):
    """The way a probe is run. All probes of a stage run before those of the next one."""

    READS = "reads"
    """In a transaction that is read-only."""
    ROLLED_BACK = "rolled back"
    """In a transaction that writes and is rolled back. It leaves dead rows, so no probe that reads follows."""
    CHANGES = "changes"
    """On a connection with autocommit. These probes change the database and are the last ones."""


@dataclass(frozen=True, slots=True)
class Within:
    """The bound of one number: the reused value may differ from the fresh one by this much, in both directions."""

    absolute: float = 0.0
    relative: float = 0.0

    def admits(self, fresh: float, reused: float) -> bool:
        """Tell whether these two numbers are equal enough."""
        return abs(reused - fresh) <= self.absolute + self.relative * abs(fresh)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One observation.

    Args:
        name: group and name, such as ``order.rows``.
        observes: the observation, and the reason where a value is not compared for equality.
        run: returns the result. It leaves out what must differ, such as identifiers of objects and processes.
        stage: the way the probe is run.
        tolerances: bounds of numbers by a pattern of their path in the result. All else must be equal.
        must_be_empty: the result must be empty in both twins, for a probe that needs no comparison.
        isolations: the isolations for which it is run.
        since: the first version of PostgreSQL that has what it reads.
        until: the last such version.
    """

    name: str
    observes: str
    run: Callable[[Session], Json]
    stage: Stage = Stage.READS
    tolerances: Mapping[str, Within] = field(default_factory=dict)
    must_be_empty: bool = False
    isolations: frozenset[Isolation] = BOTH
    since: int = 15
    until: int = NEWEST

    @property
    def group(self) -> str:
        """The part of the name before the dot. Probes of a group share a connection."""
        return self.name.partition(".")[0]
