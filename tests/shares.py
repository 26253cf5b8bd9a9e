"""Shares of the expensive suites: each run has one share of their cases, and the next turn has another.

Cases of one kind are dealt over the turns. A kind is the cases of one test function, or of one change in ``tests/hygiene``,
or the tests of a package on one older PostgreSQL version. A test function with one case runs always, except in suites of
programs and faults, whose functions are a kind. Every run has at least one of each kind. As many turns in a row as a kind
has shares have all of it.

The turn is ``FRESHDB_TURN``. By default, each commit and each day is one turn further. The header of pytest names the turn,
so that a run can be repeated. ``FRESHDB_SHARES=all`` runs every case.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    """The number of shares of each kind.

    The cases of a test function are a kind. Functions with one case always run, except where ``singles`` is given. All
    suites with the same ``singles`` then share one kind for these functions.
    """

    of: int
    singles: str = ""


OLDER_VERSION: Final = Shares(8)
"""Shares of tests on each older PostgreSQL version. On the newest one they run as SHARES says."""
WHOLE: Final = Shares(1)
SHARES: Final[Mapping[str, Shares]] = {
    "tests/cli/": Shares(2),
    "tests/contract/": Shares(2),
    "tests/crash/": Shares(4, "crash"),
    "tests/dashboard/": Shares(3),
    "tests/demo/": Shares(2, "programs"),
    "tests/deploy/": Shares(2),
    "tests/docs/test_examples.py::test_examples_of_a_page_work": Shares(4),
    "tests/docs/test_examples.py::test_examples_of_a_page_work_in_order[README.md]": WHOLE,
    "tests/faults/": Shares(2, "faults"),
    "tests/fuzz/": Shares(2, "programs"),
    "tests/hostile/test_autovacuum.py": Shares(6),
    "tests/hostile/test_settings.py": Shares(3),
    "tests/hygiene/test_crash.py": Shares(2),
    "tests/hygiene/test_property.py": Shares(4),
    "tests/integration/": Shares(2),
    "tests/integration/postgres/": Shares(3),
    "tests/integration/maintenance/": Shares(3),
    "tests/observability/test_secrets.py": Shares(2),
    "tests/observability/test_tracing.py": Shares(2),
    "tests/legacy_suite/": Shares(3),
    "tests/packaging/": Shares(4),
    "tests/plugin/": Shares(3),
    "tests/soak/test_soak.py": Shares(2, "programs"),
    "tests/toolkit/": Shares(2),
    "tests/twins/": Shares(300),
}
"""Shares of the tests by the beginning of their id. The longest beginning counts."""


def current_turn() -> int:
    """Return the turn of this run. The workers of the run inherit it by the environment."""
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


def chosen(items: Sequence[pytest.Item], turn: int | None = None) -> set[pytest.Item]:
    """Return the tests that run on this turn."""
    functions = Counter(_function(item) for item in items if _older_version(item) is None)
    kinds: dict[tuple[str, Shares], list[pytest.Item]] = defaultdict(list)
    for item in items:
        kinds[_kind(item, functions)].append(item)
    return {
        item for (_, shares), cases in kinds.items() for item in share(cases, shares.of, turn, name=_test)
    }


def _kind(item: pytest.Item, functions: Mapping[str, int]) -> tuple[str, Shares]:
    function = _function(item)
    beginning = max((one for one in SHARES if _test(item).startswith(one)), key=len, default=None)
    shares = SHARES[beginning] if beginning else WHOLE
    if older := _older_version(item):
        return f"{item.path.parent} {older}", max(OLDER_VERSION, shares)
    if functions[function] > 1:
        return function, shares
    return (shares.singles, shares) if shares.singles else (_test(item), WHOLE)


def _older_version(item: pytest.Item) -> int | None:
    major = item.callspec.params.get("postgres") if hasattr(item, "callspec") else None
    return major if isinstance(major, int) and major != wanted_majors()[0] else None


def _function(item: pytest.Item) -> str:
    return _test(item).partition("[")[0]


def _test(item: pytest.Item) -> str:
    """Return the test's id without the name of its group, which xdist adds."""
    return f"{item.parent.nodeid if item.parent else ''}::{item.name}"
