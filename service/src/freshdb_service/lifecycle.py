"""The state machine: the states of databases, leases and templates, and the legal transitions between them.

This module declares the machine and is pure: it imports the standard library alone. The control plane's database enforces
it: triggers on the three tables (migration 0006) refuse every other transition with :class:`IllegalTransition`. Inserting
and deleting a row are transitions, too. An update that leaves the state unchanged is none. The migration writes the
edges out again, because a migration must not change with the code. A test compares the two in both directions.

A trigger cannot see a legal transition under a wrong condition, such as ``resetting`` to ``ready`` by a worker that has lost
its claim. Therefore each statement in ``store`` names the state and the generation that it expects. If another worker has
changed the row in the meantime, the statement changes nothing. ``make mutants`` checks that a test fails for each of these
conditions when it is removed.

A database goes round ``creating → ready → leased → dirty → resetting → ready``. A row in ``creating``, ``resetting`` or
``dropping`` is claimed by one worker, with a deadline. When that worker dies, the reconciler returns the row to a state
from which another worker can claim it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class DatabaseState(StrEnum):
    """States of a database."""

    CREATING = "creating"
    READY = "ready"
    LEASED = "leased"
    DIRTY = "dirty"
    RESETTING = "resetting"
    KEPT = "kept"
    FAILED = "failed"
    DROPPING = "dropping"


class LeaseState(StrEnum):
    """States of a lease: two in which it holds its database, three for the ways in which it ended."""

    ACTIVE = "active"
    KEPT = "kept"
    RELEASED = "released"
    EXPIRED = "expired"
    REVOKED = "revoked"


class TemplateState(StrEnum):
    """States of a template. Databases can be cloned from it while it is ready."""

    BUILDING = "building"
    READY = "ready"
    RETIRED = "retired"
    FAILED = "failed"


class Isolation(StrEnum):
    """Scope of a lease: a database, or a schema in a shared database."""

    DATABASE = "database"
    SCHEMA = "schema"


class IllegalTransition(ValueError):
    """The database refused a transition that the state machine does not have: a mistake in the program, never a race."""


DATABASE_ENTRY: Final = frozenset({DatabaseState.CREATING})
"""The states in which a database's row may be inserted."""

DATABASE_TRANSITIONS: Final[dict[DatabaseState, frozenset[DatabaseState]]] = {
    DatabaseState.CREATING: frozenset({DatabaseState.READY, DatabaseState.FAILED, DatabaseState.DROPPING}),
    DatabaseState.READY: frozenset({DatabaseState.LEASED, DatabaseState.DIRTY, DatabaseState.DROPPING}),
    DatabaseState.LEASED: frozenset({DatabaseState.DIRTY, DatabaseState.KEPT, DatabaseState.RESETTING}),
    DatabaseState.KEPT: frozenset({DatabaseState.DIRTY}),
    DatabaseState.DIRTY: frozenset({DatabaseState.RESETTING, DatabaseState.DROPPING}),
    DatabaseState.RESETTING: frozenset(
        {DatabaseState.READY, DatabaseState.LEASED, DatabaseState.DIRTY, DatabaseState.FAILED}
    ),
    DatabaseState.FAILED: frozenset({DatabaseState.DROPPING}),
    DatabaseState.DROPPING: frozenset(),
}

DATABASE_EXIT: Final = frozenset({DatabaseState.DROPPING})
"""The states in which a database's row may be deleted."""

LEASE_ENTRY: Final = frozenset({LeaseState.ACTIVE})

LEASE_TRANSITIONS: Final[dict[LeaseState, frozenset[LeaseState]]] = {
    LeaseState.ACTIVE: frozenset(
        {LeaseState.KEPT, LeaseState.RELEASED, LeaseState.EXPIRED, LeaseState.REVOKED}
    ),
    LeaseState.KEPT: frozenset({LeaseState.RELEASED, LeaseState.EXPIRED, LeaseState.REVOKED}),
    LeaseState.RELEASED: frozenset(),
    LeaseState.EXPIRED: frozenset(),
    LeaseState.REVOKED: frozenset(),
}

LEASE_EXIT: Final = frozenset({LeaseState.RELEASED, LeaseState.EXPIRED, LeaseState.REVOKED})

TEMPLATE_ENTRY: Final = frozenset({TemplateState.BUILDING})

TEMPLATE_TRANSITIONS: Final[dict[TemplateState, frozenset[TemplateState]]] = {
    TemplateState.BUILDING: frozenset({TemplateState.READY, TemplateState.FAILED}),
    TemplateState.READY: frozenset({TemplateState.RETIRED}),
    TemplateState.FAILED: frozenset({TemplateState.BUILDING, TemplateState.RETIRED}),
    TemplateState.RETIRED: frozenset(),
}

TEMPLATE_EXIT: Final = frozenset({TemplateState.RETIRED})

LEASE_LIVE: Final = frozenset({LeaseState.ACTIVE, LeaseState.KEPT})
"""The states in which a lease still holds its database."""

DATABASE_CLAIMED: Final = frozenset({DatabaseState.CREATING, DatabaseState.RESETTING, DatabaseState.DROPPING})
"""The states in which one worker has claimed the database, with a deadline."""
