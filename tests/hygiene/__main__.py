"""Print the catalogue: ``python -m tests.hygiene``."""

from __future__ import annotations

import sys

from tests.hygiene.catalogue import CATALOGUE, Case, Place, cases_in, places_of, plan
from tests.servers import MAJORS


def main() -> None:
    """Print the number of kinds in each place, and their names."""
    out = sys.stdout
    out.write(f"{len(CATALOGUE)} kinds of change. Cleaned + refused by PostgreSQL\n")
    out.write(f"{'':>18}{'on this turn':>14}{'all':>14}\n")
    places = [*places_of(MAJORS), *places_of(MAJORS, plain=True)]
    plans = [plan(MAJORS), cases_in(places)]
    for place in places:
        out.write(f"{place!s:>18}" + "".join(f"{_cell(place, planned):>14}" for planned in plans) + "\n")
    out.writelines(f"{change}\n" for change in CATALOGUE)


def _cell(place: Place, planned: list[Case]) -> str:
    changes = [change for where, change in planned if where == place]
    refused = sum(place.isolation in change.refused for change in changes)
    return f"{len(changes) - refused} + {refused}"


if __name__ == "__main__":
    main()
