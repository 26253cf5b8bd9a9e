"""The share of the matrix's changes that a rebuild answered, printed at the end of a run.

A test of the matrix records its place and the cause of the rebuild, or no cause if its database was cleaned in place.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

import pytest

RESET: Final = "hygiene_reset"
"""Property of a test's report. Reports carry it from the workers to the process that prints the summary."""


def recorded(reports: Iterable[pytest.TestReport]) -> list[tuple[str, str]]:
    """Return the place and the cause of each reset in these reports."""
    found: list[tuple[str, str]] = []
    for report in reports:
        for name, value in report.user_properties:
            if name == RESET and isinstance(value, list):
                place, cause = value
                found.append((str(place), str(cause)))
    return found


def summary(resets: Sequence[tuple[str, str]]) -> list[str]:
    """Return one line for each place, and one for all."""
    by_place: dict[str, list[str]] = defaultdict(list)
    for place, cause in resets:
        by_place[place].append(cause)
    lines = [f"{'place':<20}{'changes':>9}{'cleaned':>10}{'rebuilt':>14}   causes"]
    for place, causes in [*sorted(by_place.items()), ("all", [cause for _, cause in resets])]:
        rebuilt = Counter(cause for cause in causes if cause)
        total = rebuilt.total()
        named = ", ".join(f"{cause} {number}" for cause, number in rebuilt.most_common())
        share = f"{total:>7} = {total / len(causes):>3.0%}".replace("%", " %")
        lines.append(f"{place:<20}{len(causes):>9}{len(causes) - total:>10}{share}   {named}".rstrip())
    return lines
