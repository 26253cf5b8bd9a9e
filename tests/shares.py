"""Shares of the suites that are products: each run has one share of their cases, and the next turn has another.

Cases of one kind are dealt over the turns. A kind is the cases of one test function, or of one change in ``tests/hygiene``,
or the tests of a package on one older PostgreSQL version, or the tests of an expensive module that have no cases. Every run
has at least one of each kind. As many turns in a row as a kind has shares have all of it.

The turn is ``FRESHDB_TURN``. By default, each commit and each day is one turn further. The header of pytest names the turn,
so that a run can be repeated. ``FRESHDB_SHARES=all`` runs every case.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple, TypeVar
from zlib import crc32

import pytest

from tests.servers import wanted_majors

T = TypeVar("T")
_DAY_SECONDS: Final = 86400
ALL: Final = os.environ.get("FRESHDB_SHARES") == "all"


class Shares(NamedTuple):
    """How many shares each kind has.

    A kind is each ``function``, each value of a parameter, or with ``module`` also the functions of a module without cases.
    """

    of: int
    each: str = "function"


OLDER_VERSION: Final = Shares(8)
"""Tests of every PostgreSQL version run on the newest one always, and on each older one in shares."""
OTHERS: Final = Shares(1)
SHARES: Final[Mapping[str, Shares]] = {
    "tests/crash/": Shares(2, "story"),
    "tests/docs/test_examples.py::test_the_examples_work": Shares(4),
    "tests/docs/test_examples.py::test_the_examples_work_from_top_to_bottom[README.md]": Shares(1),
    "tests/hostile/test_autovacuum.py": Shares(6),
    "tests/hostile/test_settings.py": Shares(3),
    "tests/hygiene/test_property.py": Shares(2),
    "tests/integration/cluster/": Shares(2),
    "tests/integration/maintenance/": Shares(2, "module"),
    "tests/integration/serve/": Shares(2, "module"),
    "tests/plugin/": Shares(2, "module"),
}
"""Shares of the tests whose id begins like this; the longest beginning counts."""


def current_turn() -> int:
    """Return the turn of this run; the workers of the run inherit it by the environment."""
    if "FRESHDB_TURN" not in os.environ:
        commits = ""
        with suppress(OSError):
            command = ["git", "rev-list", "--count", "HEAD"]
            done = subprocess.run(
                command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
            )
            commits = done.stdout
        os.environ["FRESHDB_TURN"] = str(int(commits or 0) + int(time.time() // _DAY_SECONDS))
    return int(os.environ["FRESHDB_TURN"])


def share(
    cases: Iterable[T], count: int, turn: int | None = None, *, name: Callable[[T], str] = str
) -> list[T]:
    """Return the cases of one kind that run on this turn, in their order."""
    every = list(cases)
    if ALL or not every:
        return every
    count = min(count, len(every))
    dealt = sorted(range(len(every)), key=lambda position: crc32(name(every[position]).encode()))
    mine = set(dealt[(current_turn() if turn is None else turn) % count :: count])
    return [case for position, case in enumerate(every) if position in mine]


def chosen(items: Iterable[pytest.Item], turn: int | None = None) -> set[pytest.Item]:
    """Return the tests that run on this turn."""
    kinds: dict[tuple[str, Shares], list[pytest.Item]] = defaultdict(list)
    for item in items:
        kinds[_kind(item)].append(item)
    return {
        item for (_, shares), cases in kinds.items() for item in share(cases, shares.of, turn, name=_test)
    }


def _kind(item: pytest.Item) -> tuple[str, Shares]:
    test = _test(item)
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    major = parameters.get("postgres")
    if isinstance(major, int) and major != wanted_majors()[0]:
        return f"{item.path.parent} {major}", OLDER_VERSION
    beginning = max((one for one in SHARES if test.startswith(one)), key=len, default=None)
    shares = SHARES[beginning] if beginning else OTHERS
    function, case, _ = test.partition("[")
    place = item.path if shares.each == "module" and not case else function
    return f"{place} {parameters.get(shares.each)}", shares


def _test(item: pytest.Item) -> str:
    """Return the test's id without the name of its group, which xdist adds."""
    return f"{item.parent.nodeid if item.parent else ''}::{item.name}"
