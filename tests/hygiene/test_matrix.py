"""The hygiene matrix: whatever a holder leaves behind, the next one finds the template."""

from __future__ import annotations

import psycopg
import pytest

from tests.hygiene.catalogue import (
    CATALOGUE,
    EVERYWHERE_KINDS,
    EVERYWHERE_SHARES,
    Place,
    of_turn,
    places_of,
    plan,
)
from tests.hygiene.change import Change, Holder
from tests.hygiene.conftest import Grounds, Stand
from tests.hygiene.judge import differences
from tests.servers import MAJORS, wanted_majors


@pytest.mark.parametrize(
    ("place", "change"),
    [
        pytest.param(
            place, change, id=f"{place}-{change}", marks=pytest.mark.xdist_group(f"hygiene-{place.major}")
        )
        for place, change in of_turn(plan(wanted_majors()))
    ],
)
def test_the_next_holder_finds_the_template(grounds: Grounds, place: Place, change: Change) -> None:
    stand = grounds.stand(place.major, place.isolation, plain=place.plain)
    holder = Holder(stand.clean.subject)
    try:
        if place.isolation in change.refused:
            _is_refused(change, holder)
            if len(change.sql) == 1:
                return
        else:
            change.make(holder)
            seen = stand.ground.judge.sees_difference(stand.baseline, stand.clean.subject)
            assert seen == (place.isolation not in change.unseen)
        _is_clean_again(stand)
    except BaseException as error:
        error.add_note(grounds.last_words())
        grounds.abandon(place.isolation)
        raise
    finally:
        holder.leave()


def _is_refused(change: Change, holder: Holder) -> None:
    with pytest.raises(psycopg.Error) as refusal:
        change.make(holder)
    assert refusal.value.sqlstate == change.refusal, refusal.value


def _is_clean_again(stand: Stand) -> None:
    stand.clean = stand.ground.next_of(stand.clean)
    found = differences(stand.baseline, stand.ground.judge.picture(stand.clean.subject))
    assert not found, "\n".join(found)


def test_kinds_have_names_of_their_own() -> None:
    names = [change.name for change in CATALOGUE]
    assert len(set(names)) == len(names)
    assert set(names) >= EVERYWHERE_KINDS


def test_at_least_seventy_five_kinds_are_cleaned_in_every_place() -> None:
    chosen = plan(MAJORS)
    for place in places_of(MAJORS):
        cleaned = [
            change for where, change in chosen if where == place and place.isolation not in change.refused
        ]
        assert len(cleaned) >= 75, place


def test_what_only_a_whole_database_allows_is_refused_with_every_schema() -> None:
    changes = {change.name: change for change in CATALOGUE}
    chosen = set(plan(MAJORS))
    for name in EVERYWHERE_KINDS:
        assert all((place, changes[name]) in chosen for place in places_of(MAJORS)), name


def test_each_turn_has_every_important_kind_and_every_place() -> None:
    cases = plan(MAJORS)
    chosen = of_turn(cases, turn=4711)
    assert {change.name for _, change in chosen} > EVERYWHERE_KINDS
    assert {place for place, _ in chosen} == {place for place, _ in cases}


def test_every_important_kind_is_made_in_every_place_over_the_turns() -> None:
    important = [case for case in plan(MAJORS) if case[1].name in EVERYWHERE_KINDS]
    assert {case for turn in range(EVERYWHERE_SHARES) for case in of_turn(important, turn)} == set(important)
