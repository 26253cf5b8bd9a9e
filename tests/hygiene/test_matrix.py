"""The hygiene matrix: after any change by a holder, the next holder finds the template."""

from __future__ import annotations

import psycopg
import pytest

from tests.hygiene.catalogue import CATALOGUE, EVERYWHERE_KINDS, Place, Reach, places_of, plan
from tests.hygiene.change import EVERYWHERE, Change, Holder
from tests.hygiene.conftest import Grounds, Stand
from tests.hygiene.judge import differences
from tests.servers import MAJORS, matrix_majors


@pytest.mark.parametrize(
    ("place", "change"),
    [
        pytest.param(
            place, change, id=f"{place}-{change}", marks=pytest.mark.xdist_group(f"hygiene-{place.major}")
        )
        for place, change in plan(matrix_majors())
    ],
)
def test_next_holder_finds_the_template(grounds: Grounds, place: Place, change: Change) -> None:
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


def test_kinds_have_unique_names() -> None:
    names = [change.name for change in CATALOGUE]
    assert len(set(names)) == len(names)
    assert set(names) >= EVERYWHERE_KINDS


def test_at_least_75_kinds_run_in_every_place() -> None:
    chosen = plan(MAJORS, Reach.TURNS)
    for place in places_of(MAJORS):
        cleaned = [
            change for where, change in chosen if where == place and place.isolation not in change.refused
        ]
        assert len(cleaned) >= 75, place


def test_default_run_covers_main_kinds_in_both_isolations() -> None:
    changes = {change.name: change for change in CATALOGUE}
    made: dict[str, set[Place]] = {name: set() for name in EVERYWHERE_KINDS}
    for place, change in plan(MAJORS, Reach.USUAL):
        if change.name in made:
            made[change.name].add(place)
    for name, places in made.items():
        newest = {place for place in places_of(MAJORS[:1]) if place.allows(changes[name])}
        others = [place for place in places if not place.plain and place not in newest]
        assert newest <= places, name
        assert len(others) == any(changes[name].concerns(major) for major in MAJORS[1:]), name
    assert set().union(*made.values()) == {*places_of(MAJORS), *places_of(MAJORS, plain=True)}


def test_turns_run_covers_main_kinds_in_every_place() -> None:
    changes = {change.name: change for change in CATALOGUE}
    chosen = set(plan(MAJORS, Reach.TURNS))
    for name in EVERYWHERE_KINDS:
        assert all((place, changes[name]) in chosen for place in places_of(MAJORS)), name


def test_every_kind_is_run_or_refused() -> None:
    made = {change for place, change in plan(MAJORS, Reach.TURNS) if place.isolation not in change.refused}
    assert made == {change for change in CATALOGUE if change.refused != EVERYWHERE}
    tried = {change for place, change in plan(MAJORS, Reach.USUAL) if place.isolation in change.refused}
    assert tried == {change for change in CATALOGUE if change.refused}
