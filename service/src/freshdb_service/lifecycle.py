"""The state machine: which states a database, a lease and a template can be in, and how they may change.

This module is the only place that says so. It is pure: the standard library alone, no clock, no I/O. Whoever changes a
row asks here first and then compares and sets, naming the state and the generation that it expects
(``store``); a row that was changed by somebody else in the meantime is a typed conflict, never overwritten.

A database goes round ``creating → ready → leased → dirty → resetting → ready``. Work that a worker does while a row is
in ``creating``, ``resetting`` or ``dropping`` is guarded by a claim with a deadline: a worker that died loses the row to
the reconciler, which sends it back to where somebody else picks it up.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, TypeVar

S = TypeVar("S", bound=StrEnum)


class DatabaseState(StrEnum):
    """Where a database is in its life."""

    CREATING = "creating"
    READY = "ready"
    LEASED = "leased"
    DIRTY = "dirty"
    RESETTING = "resetting"
    KEPT = "kept"
    FAILED = "failed"
    DROPPING = "dropping"


class LeaseState(StrEnum):
    """Whether a lease still gives a right, and how it ended."""

    ACTIVE = "active"
    KEPT = "kept"
    RELEASED = "released"
    EXPIRED = "expired"
    REVOKED = "revoked"


class TemplateState(StrEnum):
    """Whether databases can be cloned from a template."""

    BUILDING = "building"
    READY = "ready"
    RETIRED = "retired"
    FAILED = "failed"


class Isolation(StrEnum):
    """What a lease gets of its own: a whole database, or a schema inside a shared one."""

    DATABASE = "database"
    SCHEMA = "schema"


class IllegalTransition(ValueError):
    """A change that the state machine does not know: a mistake in the program, never a race."""


DATABASE_TRANSITIONS: Final[dict[DatabaseState, frozenset[DatabaseState]]] = {
    DatabaseState.CREATING: frozenset({DatabaseState.READY, DatabaseState.FAILED, DatabaseState.DROPPING}),
    DatabaseState.READY: frozenset({DatabaseState.LEASED, DatabaseState.DIRTY, DatabaseState.DROPPING}),
    DatabaseState.LEASED: frozenset({DatabaseState.DIRTY, DatabaseState.KEPT, DatabaseState.RESETTING}),
    DatabaseState.KEPT: frozenset({DatabaseState.DIRTY}),
    DatabaseState.DIRTY: frozenset({DatabaseState.RESETTING, DatabaseState.DROPPING}),
    DatabaseState.RESETTING: frozenset(
        {
            DatabaseState.READY,
            DatabaseState.LEASED,
            DatabaseState.DIRTY,
            DatabaseState.FAILED,
            DatabaseState.DROPPING,
        }
    ),
    DatabaseState.FAILED: frozenset({DatabaseState.DROPPING}),
    DatabaseState.DROPPING: frozenset(),
}

LEASE_TRANSITIONS: Final[dict[LeaseState, frozenset[LeaseState]]] = {
    LeaseState.ACTIVE: frozenset(
        {LeaseState.KEPT, LeaseState.RELEASED, LeaseState.EXPIRED, LeaseState.REVOKED}
    ),
    LeaseState.KEPT: frozenset({LeaseState.RELEASED, LeaseState.EXPIRED, LeaseState.REVOKED}),
    LeaseState.RELEASED: frozenset(),
    LeaseState.EXPIRED: frozenset(),
    LeaseState.REVOKED: frozenset(),
}

TEMPLATE_TRANSITIONS: Final[dict[TemplateState, frozenset[TemplateState]]] = {
    TemplateState.BUILDING: frozenset({TemplateState.READY, TemplateState.FAILED, TemplateState.BUILDING}),
    TemplateState.READY: frozenset({TemplateState.RETIRED}),
    TemplateState.FAILED: frozenset({TemplateState.BUILDING, TemplateState.RETIRED}),
    TemplateState.RETIRED: frozenset(),
}

LEASE_LIVE: Final = frozenset({LeaseState.ACTIVE, LeaseState.KEPT})
"""The states in which a lease still holds its database."""

DATABASE_CLAIMED: Final = frozenset({DatabaseState.CREATING, DatabaseState.RESETTING, DatabaseState.DROPPING})
"""The states in which a worker is at it, under a claim that has a deadline."""


def check_database(old: DatabaseState, new: DatabaseState) -> DatabaseState:
    """Return ``new`` if a database may go there from ``old``.

    Raises:
        IllegalTransition: if it may not.
    """
    return _check("database", DATABASE_TRANSITIONS, old, new)


def check_lease(old: LeaseState, new: LeaseState) -> LeaseState:
    """Return ``new`` if a lease may go there from ``old``.

    Raises:
        IllegalTransition: if it may not.
    """
    return _check("lease", LEASE_TRANSITIONS, old, new)


def check_template(old: TemplateState, new: TemplateState) -> TemplateState:
    """Return ``new`` if a template may go there from ``old``.

    Raises:
        IllegalTransition: if it may not.
    """
    return _check("template", TEMPLATE_TRANSITIONS, old, new)


def _check(what: str, table: dict[S, frozenset[S]], old: S, new: S) -> S:
    if new not in table[old]:
        allowed = ", ".join(sorted(table[old])) or "nothing: it is final"
        message = f"a {what} cannot go from {old} to {new} (from there: {allowed})"
        raise IllegalTransition(message)
    return new
