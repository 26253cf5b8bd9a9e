"""The checker finds each violation in a history, and none in a correct history."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak.checker import FORGET_SECONDS, judge, leases_of
from tests.soak.history import Fault, History, Kind, Op


def acquire(lease: str, began: float, ended: float, *, place: str = "p", ttl: float = 10.0) -> Op:
    return Op(Kind.ACQUIRE, lease, began, ended, place=place, pool="pool", until=began + ttl)


def release(lease: str, began: float, *, seconds: float = 0.1, outcome: str = "ok") -> Op:
    return Op(Kind.RELEASE, lease, began, began + seconds, outcome)


def renew(lease: str, began: float, *, ttl: float = 10.0, outcome: str = "ok") -> Op:
    until = began + ttl if outcome == "ok" else 0.0
    return Op(Kind.RENEW, lease, began, began + 0.1, outcome, until=until)


def visit(lease: str, began: float, *seen: str, outcome: str = "ok") -> Op:
    return Op(Kind.VISIT, lease, began, began + 0.1, outcome, seen=seen, wrote=f"{lease}@{began:g}")


def knock(lease: str, began: float, *, outcome: str = "ok") -> Op:
    return Op(Kind.KNOCK, lease, began, began + 0.1, outcome)


CRASH = Fault("PostgreSQL crashed", 2.0, 4.0, unreachable=True)

RIGHT = {
    "one after the other": [acquire("a", 0, 1), release("a", 2), acquire("b", 2.05, 2.2), release("b", 3)],
    "the end that nobody acknowledged": [acquire("a", 0, 1, ttl=2), acquire("b", 2.5, 2.6)],
    "two places": [acquire("a", 0, 1), acquire("b", 0, 1, place="q")],
    "what it wrote itself": [
        acquire("a", 0, 1), visit("a", 1.1), visit("a", 1.5, "a@1.1"), visit("a", 2, "a@1.1", "a@1.5"), release("a", 3),
    ],
    "a visit that lasts beyond the end": [acquire("a", 0, 1, ttl=2), visit("a", 1.95, "b@1.9")],
    "lost after its time": [acquire("a", 0, 1, ttl=2), renew("a", 2.1, outcome="lease_ended")],
    "a URL that is dead": [acquire("a", 0, 1), release("a", 2), knock("a", 30, outcome="refused")],
    "a URL that dies in time": [acquire("a", 0, 1), release("a", 2), knock("a", 3)],
    "a lease that has run out": [acquire("a", 0, 1, ttl=2), knock("a", 30, outcome="refused")],
    "one that has just run out": [acquire("a", 0, 1, ttl=2), knock("a", 4)],
    "one that was renewed": [acquire("a", 0, 1, ttl=2), renew("a", 1.5, ttl=60), knock("a", 30)],
    "released, and forgotten when it was asked for again": [
        acquire("a", 0, 1), release("a", 2, seconds=FORGET_SECONDS + 1, outcome="lease_not_found"),
    ],
    "nearly at once": [acquire("a", 0, 1.5), acquire("b", 0.5, 0.6, place="q")],
    "who comes later waits longer": [acquire("a", 0, 5), acquire("b", 2, 6, place="q")],
}  # fmt: skip

WRONG = {
    "held twice": ([acquire("a", 0, 1), acquire("b", 2, 3), release("a", 4)], "p was held by a"),
    "held twice, though renewed": (
        [acquire("a", 0, 1, ttl=2), renew("a", 1.5, ttl=5), acquire("b", 3, 4)],
        "p was held by a until 6.500",
    ),
    "held twice, behind a short one": (
        [acquire("a", 0, 1), acquire("b", 10, 11, ttl=1), acquire("c", 0, 0.9, ttl=100)],
        "p was held by c",
    ),
    "not clean": ([acquire("a", 0, 1), visit("a", 1.1, "z@0")], "found ['z@0']"),
    "somebody else was there": (
        [acquire("a", 0, 1), visit("a", 1.1), visit("a", 1.5, "a@1.1", "b@1.2")],
        "instead of ['a@1.1']",
    ),
    "what it wrote is gone": ([acquire("a", 0, 1), visit("a", 1.1), visit("a", 1.5)], "found []"),
    "out of reach": ([acquire("a", 0, 1), visit("a", 1.1, outcome="refused")], "could not reach p"),
    "lost before its time": ([acquire("a", 0, 1), renew("a", 2, outcome="lease_ended")], "a was over at 2.100"),
    "lost before it was released": (
        [acquire("a", 0, 1), release("a", 2, outcome="lease_not_found")],
        "over when it was released",
    ),
    "a URL that lives on": ([acquire("a", 0, 1), release("a", 2), knock("a", 30)], "let somebody in"),
    "a lease that ends late": ([acquire("a", 0, 1, ttl=2), knock("a", 30)], "over at 2.000, let somebody in"),
    "a renewed lease that ends late": (
        [acquire("a", 0, 1, ttl=2), renew("a", 1.5, ttl=2), knock("a", 30)],
        "over at 3.500, let somebody in",
    ),
    "overtaken": ([acquire("a", 0, 5), acquire("b", 2, 3, place="q")], "a waited from 0.000 to 5.000; b"),
    "overtaken by the last of many": (
        [acquire("a", 0, 9), acquire("b", 2, 9, place="q"), acquire("c", 6, 7, place="r")],
        "c, who came at 6.000",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_nothing_is_wrong_with_what_is_right(name: str) -> None:
    assert judge(History(RIGHT[name])) == []


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_found_and_nothing_else(name: str) -> None:
    ops, expected = WRONG[name]
    found = judge(History(ops))
    assert found
    assert all(expected in line for line in found)


def test_a_fault_excuses_what_it_brings_about_and_no_more() -> None:
    waited = [acquire("a", 0, 5), acquire("b", 2, 3, place="q")]
    assert judge(History(waited, [CRASH])) == []
    assert judge(History(waited, [Fault("long before", -9, -8)])) != []
    unreachable = [acquire("a", 0, 1, ttl=99), visit("a", 3, outcome="refused")]
    assert judge(History(unreachable, [CRASH])) == []
    assert judge(History(unreachable, [Fault("a replica died", 2, 4)])) != []
    late = [acquire("a", 0, 1, ttl=2), knock("a", 30)]
    assert judge(History(late, [Fault("Redis emptied", 1, 2, forgets=True)])) == []
    assert judge(History(late, [CRASH])) != []
    haunted = [acquire("a", 0, 1), release("a", 2), knock("a", 30)]
    assert judge(History(haunted, [Fault("Redis emptied", 1, 2, forgets=True)])) != []
    twice = [acquire("a", 0, 1, ttl=99), acquire("b", 1.5, 3)]
    assert judge(History(twice, [CRASH])) != []


def test_a_history_can_be_kept(tmp_path: Path) -> None:
    history = History([acquire("a", 0, 1), visit("a", 2, "x", "y")], [CRASH])
    history.write(tmp_path / "history")
    assert History.read(tmp_path / "history") == history
    assert [lease.id for lease in leases_of(history)] == ["a"]
