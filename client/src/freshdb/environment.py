"""The environment of a program that is to use a database of ours, and no other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from freshdb.credentials import Connectable

_WOULD_WIN: Final = frozenset({"PGHOSTADDR", "PGSERVICE"})
"""What libpq follows before ``PGHOST`` and its like."""


def environment_with(database: Connectable, given: Mapping[str, str]) -> dict[str, str]:
    """Put ``DATABASE_URL`` and the ``PG*`` variables of `database` into a given environment.

    Raises:
        LeaseLost: the lease is no longer ours.
    """
    kept = {key: value for key, value in given.items() if key not in _WOULD_WIN}
    return {**kept, **database.env()}
