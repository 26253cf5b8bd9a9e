"""The environment of a program that must use one database, and no other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from freshdb.credentials import Connectable

_OVERRIDES: Final = frozenset({"PGHOSTADDR", "PGSERVICE"})
"""Variables that take precedence over ``PGHOST`` and the others in libpq."""


def environment_with(database: Connectable, given: Mapping[str, str]) -> dict[str, str]:
    """Add ``DATABASE_URL`` and the ``PG*`` variables of `database` to an environment.

    Raises:
        LeaseLost: the lease was lost.
    """
    kept = {key: value for key, value in given.items() if key not in _OVERRIDES}
    return {**kept, **database.env()}
