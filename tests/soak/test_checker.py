"""The checker finds each violation in a history, and none in a correct history."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak.checker import HISTORY_SECONDS, leases_of, violations
from tests.soak.history import Fault, History, Kind, Op


def acquire(lease: str, began: float, ended: float, *, database: str = "p", ttl: float = 10.0) -> Op:
    return Op(Kind.ACQUIRE, lease, began, ended, database=database, pool="pool", until=began + ttl)


def release(lease: str, began: float, *, seconds: float = 0.1, outcome: str = "ok") -> Op:
    return Op(Kind.RELEASE, lease, began, began + seconds, outcome)


def renew(lease: str, began: float, *, ttl: float = 10.0, outcome: str = "ok") -> Op:
    until = began + ttl if outcome == "ok" else 0.0
    return Op(Kind.RENEW, lease, began, began + 0.1, outcome, until=until)


def query(lease: str, began: float, *seen: str, outcome: str = "ok") -> Op:
    return Op(Kind.QUERY, lease, began, began + 0.1, outcome, seen=seen, wrote=f"{lease}@{began:g}")


def reconnect(lease: str, began: float, *, outcome: str = "ok") -> Op:
    return Op(Kind.RECONNECT, lease, began, began + 0.1, outcome)


CRASH = Fault("PostgreSQL crashed", 2.0, 4.0, unreachable=True)

CORRECT = {
    "one after the other": [acquire("a", 0, 1), release("a", 2), acquire("b", 2.05, 2.2), release("b", 3)],
    "granted after the acknowledged end": [acquire("a", 0, 1, ttl=2), acquire("b", 2.5, 2.6)],
    "two databases": [acquire("a", 0, 1), acquire("b", 0, 1, database="q")],
    "own rows": [
        acquire("a", 0, 1), query("a", 1.1), query("a", 1.5, "a@1.1"), query("a", 2, "a@1.1", "a@1.5"), release("a", 3),
    ],
    "query that outlasts the lease": [acquire("a", 0, 1, ttl=2), query("a", 1.95, "b@1.9")],
    "lost after its end": [acquire("a", 0, 1, ttl=2), renew("a", 2.1, outcome="lease_ended")],
    "URL refused after the release": [acquire("a", 0, 1), release("a", 2), reconnect("a", 30, outcome="refused")],
    "URL accepted shortly after the release": [acquire("a", 0, 1), release("a", 2), reconnect("a", 3)],
    "URL refused after the expiry": [acquire("a", 0, 1, ttl=2), reconnect("a", 30, outcome="refused")],
    "URL accepted shortly after the expiry": [acquire("a", 0, 1, ttl=2), reconnect("a", 4)],
    "URL of a renewed lease": [acquire("a", 0, 1, ttl=2), renew("a", 1.5, ttl=60), reconnect("a", 30)],
    "release repeated after the lease was pruned": [
        acquire("a", 0, 1), release("a", 2, seconds=HISTORY_SECONDS + 1, outcome="lease_not_found"),
    ],
    "requests at nearly the same time": [acquire("a", 0, 1.5), acquire("b", 0.5, 0.6, database="q")],
    "later request waits longer": [acquire("a", 0, 5), acquire("b", 2, 6, database="q")],
}  # fmt: skip

INCORRECT = {
    "held twice": ([acquire("a", 0, 1), acquire("b", 2, 3), release("a", 4)], "p was held by a"),
    "held twice, after a renewal": (
        [acquire("a", 0, 1, ttl=2), renew("a", 1.5, ttl=5), acquire("b", 3, 4)],
        "p was held by a until 6.500",
    ),
    "held twice, hidden by a short lease": (
        [acquire("a", 0, 1), acquire("b", 10, 11, ttl=1), acquire("c", 0, 0.9, ttl=100)],
        "p was held by c",
    ),
    "not clean": ([acquire("a", 0, 1), query("a", 1.1, "z@0")], "found ['z@0']"),
    "row of another holder": (
        [acquire("a", 0, 1), query("a", 1.1), query("a", 1.5, "a@1.1", "b@1.2")],
        "instead of ['a@1.1']",
    ),
    "own row is missing": ([acquire("a", 0, 1), query("a", 1.1), query("a", 1.5)], "found []"),
    "unreachable": ([acquire("a", 0, 1), query("a", 1.1, outcome="refused")], "could not reach p"),
    "lost before its end": ([acquire("a", 0, 1), renew("a", 2, outcome="lease_ended")], "a had ended at 2.100"),
    "lost before its release": (
        [acquire("a", 0, 1), release("a", 2, outcome="lease_not_found")],
        "had ended before its release",
    ),
    "URL accepted long after the release": ([acquire("a", 0, 1), release("a", 2), reconnect("a", 30)], "was accepted"),
    "lease that ends late": ([acquire("a", 0, 1, ttl=2), reconnect("a", 30)], "expired at 2.000, was accepted"),
    "renewed lease that ends late": (
        [acquire("a", 0, 1, ttl=2), renew("a", 1.5, ttl=2), reconnect("a", 30)],
        "expired at 3.500, was accepted",
    ),
    "overtaken": ([acquire("a", 0, 5), acquire("b", 2, 3, database="q")], "a waited from 0.000 to 5.000; b"),
    "overtaken by the last of several": (
        [acquire("a", 0, 9), acquire("b", 2, 9, database="q"), acquire("c", 6, 7, database="r")],
        "c, requested at 6.000",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CORRECT)
def test_correct_history_has_no_violation(name: str) -> None:
    assert violations(History(CORRECT[name])) == []


@pytest.mark.parametrize("name", INCORRECT)
def test_violation_is_found_and_no_other(name: str) -> None:
    ops, expected = INCORRECT[name]
    found = violations(History(ops))
    assert found
    assert all(expected in line for line in found)


def test_fault_excuses_only_its_own_consequences() -> None:
    overtaken = [acquire("a", 0, 5), acquire("b", 2, 3, database="q")]
    assert violations(History(overtaken, [CRASH])) == []
    assert violations(History(overtaken, [Fault("long before", -9, -8)])) != []
    unreachable = [acquire("a", 0, 1, ttl=99), query("a", 3, outcome="refused")]
    assert violations(History(unreachable, [CRASH])) == []
    assert violations(History(unreachable, [Fault("a replica died", 2, 4)])) != []
    expired_late = [acquire("a", 0, 1, ttl=2), reconnect("a", 30)]
    assert violations(History(expired_late, [Fault("Redis emptied", 1, 2, loses_data=True)])) == []
    assert violations(History(expired_late, [CRASH])) != []
    late = [acquire("a", 0, 1), release("a", 2), reconnect("a", 30)]
    assert violations(History(late, [Fault("Redis emptied", 1, 2, loses_data=True)])) != []
    twice = [acquire("a", 0, 1, ttl=99), acquire("b", 1.5, 3)]
    assert violations(History(twice, [CRASH])) != []


def test_history_is_written_and_read_back(tmp_path: Path) -> None:
    history = History([acquire("a", 0, 1), query("a", 2, "x", "y")], [CRASH])
    history.write(tmp_path / "history")
    assert History.read(tmp_path / "history") == history
    assert [lease.id for lease in leases_of(history)] == ["a"]
