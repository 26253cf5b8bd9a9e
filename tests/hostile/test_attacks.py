"""Hostile holders: each attack is refused, or has no effect after the lease has ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hostile.attack import Attack, Outcome
from tests.hostile.catalogue import ATTACKS, IN_THE_MATRIX, plan, table
from tests.hostile.conftest import Arena
from tests.hygiene.catalogue import CATALOGUE, EVERYWHERE_KINDS, Place
from tests.servers import wanted_majors

CASES = plan(wanted_majors())
PLACES = dict.fromkeys(place for place, _ in CASES)


def of_place(place: Place) -> pytest.MarkDecorator:
    return pytest.mark.xdist_group(f"hostile-{place.major}{'-plain' if place.plain else ''}")


@pytest.mark.parametrize(
    ("place", "attack"),
    [pytest.param(*case, id=f"{case[0]}-{case[1]}", marks=of_place(case[0])) for case in CASES],
)
def test_an_attack_comes_to_nothing(arena: Arena, place: Place, attack: Attack) -> None:
    scene = arena.scene(place)
    try:
        afterwards = attack.make(scene)
        if attack.outcome is not Outcome.REFUSED:
            assert scene.stand.attacker_is_followed() == []
        if afterwards is not None:
            afterwards()
    except BaseException as error:
        error.add_note(arena.last_words())
        arena.abandon(place.isolation)
        raise
    finally:
        scene.holder.leave()


@pytest.mark.parametrize("place", [pytest.param(one, id=str(one), marks=of_place(one)) for one in PLACES])
def test_nobody_notices_what_was_tried_in_vain(arena: Arena, place: Place) -> None:
    """Check the next holder and the neighbour after all refused attacks."""
    stand = arena.scene(place).stand
    assert stand.attacker_is_followed() == []
    assert stand.neighbour_is_followed() == []


def test_attacks_have_names_of_their_own() -> None:
    names = [*(attack.name for attack in ATTACKS), *IN_THE_MATRIX]
    assert len(set(names)) == len(names)


def test_what_the_matrix_of_changes_holds_is_there() -> None:
    assert set(IN_THE_MATRIX.values()) <= {change.name for change in CATALOGUE}
    assert EVERYWHERE_KINDS


def test_the_documentation_has_the_table() -> None:
    page = Path(__file__).parents[2] / "docs" / "security.md"
    assert table() in page.read_text(encoding="utf-8")
