"""Hostile holders: each attack is refused, or has no effect after the lease has ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hostile.attack import Attack, Outcome
from tests.hostile.catalogue import ATTACKS, IN_HYGIENE_MATRIX, plan, table
from tests.hostile.conftest import AttackPools
from tests.hygiene.catalogue import CATALOGUE, IMPORTANT_KINDS, Place
from tests.servers import wanted_majors

CASES = plan(wanted_majors())
PLACES = dict.fromkeys(place for place, _ in CASES)


def of_place(place: Place) -> pytest.MarkDecorator:
    return pytest.mark.xdist_group(f"hostile-{place.major}{'-plain' if place.plain else ''}")


@pytest.mark.parametrize(
    ("place", "attack"),
    [pytest.param(*case, id=f"{case[0]}-{case[1]}", marks=of_place(case[0])) for case in CASES],
)
def test_attack_is_refused_or_cleaned(attack_pools: AttackPools, place: Place, attack: Attack) -> None:
    context = attack_pools.attack_context(place)
    try:
        check_after_release = attack.run_attack(context)
        if attack.outcome is not Outcome.REFUSED:
            assert context.pair.differences_for_next_holder() == []
        if check_after_release is not None:
            check_after_release()
    except BaseException as error:
        error.add_note(attack_pools.log_tail())
        attack_pools.discard(place.isolation)
        raise
    finally:
        context.holder.leave()


@pytest.mark.parametrize("place", [pytest.param(one, id=str(one), marks=of_place(one)) for one in PLACES])
def test_refused_attacks_do_not_affect_other_holders(attack_pools: AttackPools, place: Place) -> None:
    """Check the next holder and the neighbour after all refused attacks."""
    pair = attack_pools.attack_context(place).pair
    assert pair.differences_for_next_holder() == []
    assert pair.differences_for_next_neighbour() == []


def test_names_of_attacks_are_unique() -> None:
    names = [*(attack.name for attack in ATTACKS), *IN_HYGIENE_MATRIX]
    assert len(set(names)) == len(names)


def test_attacks_made_in_the_hygiene_matrix_exist_there() -> None:
    assert set(IN_HYGIENE_MATRIX.values()) <= {change.name for change in CATALOGUE}
    assert IMPORTANT_KINDS


def test_security_page_has_the_table_of_attacks() -> None:
    page = Path(__file__).parents[2] / "docs" / "security.md"
    assert table() in page.read_text(encoding="utf-8")
