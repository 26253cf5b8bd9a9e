"""The hygiene matrix: after every kind of change by a holder, the next holder finds the template."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from tests.hygiene.catalogue import CATALOGUE, IMPORTANT_KINDS, Place, cases_in, places_of, plan
from tests.hygiene.change import Change, Holder
from tests.hygiene.conftest import LeasedPool, LeasedPools
from tests.hygiene.rebuilds import RESET, summary
from tests.hygiene.snapshot import differences
from tests.servers import MAJORS, wanted_majors

PLACES = [*places_of(MAJORS), *places_of(MAJORS, plain=True)]


@pytest.mark.parametrize(
    ("place", "change"),
    [
        pytest.param(*case, id=str(case), marks=pytest.mark.xdist_group(f"hygiene-{case.place.major}"))
        for case in plan(wanted_majors())
    ],
)
def test_next_holder_gets_a_copy_of_the_template(
    leased_pools: LeasedPools,
    place: Place,
    change: Change,
    record_property: Callable[[str, object], None],
) -> None:
    leased = leased_pools.leased_pool(place.major, place.isolation, plain=place.plain)
    before = leased.pool.rebuilds()
    holder = Holder(leased.lease.subject)
    try:
        if place.isolation in change.refused:
            _check_refusal(change, holder)
            if len(change.sql) == 1:
                return
        else:
            change.apply(holder)
            differs = leased.pool.snapshotter.differs(leased.baseline, leased.lease.subject)
            assert differs == (place.isolation not in change.unseen)
        _check_next_lease_is_clean(leased)
        record_property(RESET, [str(place), "".join(leased.pool.rebuilds() - before)])
    except BaseException as error:
        error.add_note(leased_pools.log_tail())
        leased_pools.discard(place.isolation)
        raise
    finally:
        holder.leave()


def _check_refusal(change: Change, holder: Holder) -> None:
    with pytest.raises(psycopg.Error) as refusal:
        change.apply(holder)
    assert refusal.value.sqlstate == change.refusal, refusal.value


def _check_next_lease_is_clean(leased: LeasedPool) -> None:
    leased.lease = leased.pool.next_of(leased.lease)
    found = differences(leased.baseline, leased.pool.snapshotter.snapshot(leased.lease.subject))
    assert not found, "\n".join(found)


def test_summary_counts_the_rebuilds_of_each_place_by_cause() -> None:
    resets = [("18-schema", "rows"), ("16-database", ""), ("18-schema", ""), ("18-schema", "planner")]
    resets += [("18-schema", "rows")]
    assert summary(resets) == [
        "place                 changes   cleaned       rebuilt   causes",
        "16-database                 1         1      0 =  0 %",
        "18-schema                   4         1      3 = 75 %   rows 2, planner 1",
        "all                         5         2      3 = 60 %   rows 2, planner 1",
    ]


def test_names_of_kinds_are_unique() -> None:
    names = [change.name for change in CATALOGUE]
    assert len(set(names)) == len(names)
    assert set(names) >= IMPORTANT_KINDS


def test_at_least_seventy_five_kinds_are_cleaned_in_every_place() -> None:
    for place in PLACES:
        cleaned = [case for case in cases_in([place]) if place.isolation not in case.change.refused]
        assert len(cleaned) >= 75, place


def test_every_important_kind_is_possible_in_every_place() -> None:
    for place in places_of(MAJORS):
        assert {case.change.name for case in cases_in([place])} >= IMPORTANT_KINDS, place


@pytest.mark.parametrize("majors", [MAJORS, MAJORS[:2], MAJORS[:1]], ids=str)
def test_each_turn_has_every_important_kind_and_the_turns_have_every_place(
    majors: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.shares.ALL", False)
    monkeypatch.setattr("tests.hygiene.catalogue.ALL", False)
    turns = [plan(majors, turn) for turn in range(len(PLACES) * 2)]
    for cases in turns:
        assert {case.change.name for case in cases} > IMPORTANT_KINDS
    everything = cases_in([*places_of(majors), *places_of(majors, plain=True)])
    important = {str(case) for case in everything if case.change.name in IMPORTANT_KINDS}
    assert {str(case) for cases in turns for case in cases} > important
