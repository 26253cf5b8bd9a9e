"""Warnings about a build that succeeded, but probably did not do what its author meant.

``psql`` without ``ON_ERROR_STOP``, and several migration tools, end with exit code 0 after errors. Such a build would be a
template that is ready, and has no tables.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from freshdb_service.postgres import has_statements

_ERROR: Final = re.compile(r"\b(?:ERROR|FATAL|PANIC):|^\s*[\w.]*[eE]rror: ")
"""Errors as psql and libpq print them, and as JavaScript and Python print exceptions."""
_SHOWN_CHARACTERS: Final = 300


def build_warnings(*, empty: bool, sql: Sequence[str] | None, log: str | None) -> list[str]:
    """Return the warnings for a build.

    Args:
        empty: the database has no object that the build created.
        sql: the scripts, if the service built the template. PostgreSQL's errors fail such a build.
        log: the output of the build command.
    """
    warnings = []
    if sql is None:
        errors = [line.strip() for line in (log or "").splitlines() if _ERROR.search(line)]
        if errors:
            more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
            warnings.append(
                f"the build command printed an error, and ended with exit code 0: {errors[0][:_SHOWN_CHARACTERS]}{more}. "
                "Make it stop at the first error (psql: -v ON_ERROR_STOP=1), and build again"
            )
    if empty and (sql is None or has_statements(sql)):
        warnings.append(
            "the build created no table or other object: check that its command or SQL ran against DATABASE_URL, "
            "and build again"
        )
    return warnings
