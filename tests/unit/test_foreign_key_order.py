"""The order of deletions and loads: found for every schema, or refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freshdb_reset.foreign_key_order import (
    CircularReferences,
    CleaningOrder,
    affected,
    find_order,
)
from freshdb_reset.table_model import Qualified, Reference, Table, TableModel

NAMES = [("s", letter) for letter in "abcde"]


def table(name: Qualified, *, rows: int = 0, fires: str = "", family: Qualified | None = None) -> Table:
    return Table(
        rows=rows,
        pages=0,
        materialized=False,
        family=family or name,
        fires=frozenset(fires.split()),
        runs_code=False,
        columns=("id",),
        referenced_by=frozenset(),
    )


def refers(of: str, to: str, *, blocks: bool = True, deferrable: bool = False, unset: str = "") -> Reference:
    return Reference(("s", of), ("s", to), blocks, deferrable, tuple(unset.split()))


def picture(*references: Reference, rows: int = 0, fires: str = "") -> TableModel:
    tables = {}
    for name in NAMES:
        made = table(name, rows=rows, fires=fires)
        by = frozenset(one.of for one in references if one.to == name)
        tables[name] = Table(
            made.rows, made.pages, False, made.family, made.fires, False, made.columns, referenced_by=by
        )
    return TableModel(tables, {}, references)


def shortly(names: list[Qualified]) -> str:
    return "".join(name for _, name in names)


def emptied(here: TableModel, tables: str, *, load: str = "") -> CleaningOrder:
    return find_order(
        here,
        empty=[("s", name) for name in tables],
        thin=[],
        load=[("s", name) for name in load],
    )


def test_referring_table_is_emptied_first_and_loaded_last() -> None:
    here = picture(refers("a", "b"), refers("b", "c"), refers("d", "d"))
    made = emptied(here, "abcd", load="abcd")
    assert shortly(made.delete).index("a") < shortly(made.delete).index("b") < shortly(made.delete).index("c")
    assert shortly(made.load).index("c") < shortly(made.load).index("b") < shortly(made.load).index("a")
    assert (made.deferred, made.unset, made.truncate) == (False, [], [])


def test_circle_is_broken_by_mildest_means() -> None:
    deferrable = refers("b", "a", deferrable=True, unset="a_id")
    assert emptied(picture(refers("a", "b"), deferrable), "ab").deferred
    cascading = emptied(picture(refers("a", "b"), refers("b", "a", blocks=False)), "ab")
    assert (cascading.deferred, cascading.unset, cascading.truncate) == (False, [], [])
    nullable = emptied(picture(refers("a", "b"), refers("b", "a", unset="a_id")), "ab")
    assert (nullable.unset, nullable.truncate) == ([(("s", "b"), ("a_id",))], [])
    neither = emptied(picture(refers("a", "b"), refers("b", "a")), "ab")
    assert (shortly(neither.truncate), neither.delete) == ("ab", [])


def test_table_that_keeps_rows_is_not_truncated() -> None:
    circle = (refers("a", "b"), refers("b", "a"))
    with pytest.raises(CircularReferences, match="a and b refer to each other"):
        find_order(picture(*circle), empty=[("s", "a")], thin=[("s", "b")], load=[])
    with pytest.raises(CircularReferences):  # c has rows, and would be truncated with them
        emptied(picture(*circle, refers("c", "a"), rows=1), "ab", load="")
    with pytest.raises(CircularReferences):
        emptied(picture(*circle, fires="truncate"), "ab")
    with pytest.raises(CircularReferences, match="functions"):
        emptied(picture(refers("a", "b"), refers("b", "a", unset="a_id"), fires="update"), "ab")
    with pytest.raises(CircularReferences, match="cannot be loaded"):
        emptied(picture(*circle, rows=1), "ab", load="ab")


def test_references_between_partitions_are_unset_before_deletion() -> None:
    parts = {("s", name): table(("s", name), family=("s", "whole")) for name in "ab"}
    whole = refers("whole", "whole", unset="other_id")
    made = find_order(TableModel(parts, {}, (whole,)), empty=list(parts), thin=[], load=[])
    assert made.unset == [(("s", "a"), ("other_id",)), (("s", "b"), ("other_id",))]
    alone = find_order(TableModel(parts, {}, (whole,)), empty=[("s", "a")], thin=[], load=[])
    assert alone.unset == []


def test_indirectly_referring_tables_are_affected() -> None:
    here = picture(refers("a", "b"), refers("b", "c", blocks=False), refers("d", "e"), rows=1)
    assert shortly(sorted(affected(here, [("s", "c")]))) == "ab"
    assert list(affected(here, [("s", "a")])) == []
    assert list(affected(picture(refers("a", "b")), [("s", "b")])) == []  # a has no rows


def references() -> st.SearchStrategy[list[Reference]]:
    letter = st.sampled_from("abcde")
    return st.lists(
        st.builds(
            refers,
            letter,
            letter,
            blocks=st.booleans(),
            deferrable=st.booleans(),
            unset=st.sampled_from(["", "x", "x y"]),
        ),
        max_size=8,
    )


@given(references(), st.sets(st.sampled_from("abcde")))
def test_table_is_emptied_after_tables_that_block_it(drawn: list[Reference], tables: set[str]) -> None:
    here = picture(*drawn)
    try:
        made = emptied(here, "".join(sorted(tables)))
    except CircularReferences:
        return
    assert {*made.delete, *made.truncate} >= {("s", name) for name in tables}
    assert not {*made.delete} & {*made.truncate}
    nulled = {(name, columns) for name, columns in made.unset}
    for one in drawn:
        if one.of == one.to or one.of not in made.delete or one.to not in made.delete:
            continue
        let_go = not one.blocks or one.deferrable or (one.of, one.unset) in nulled
        assert let_go or made.delete.index(one.of) < made.delete.index(one.to)
        assert (
            not one.deferrable
            or made.deferred
            or made.delete.index(one.of) < made.delete.index(one.to)
            or not one.blocks
        )


@given(references())
def test_table_is_loaded_after_tables_it_refers_to(drawn: list[Reference]) -> None:
    here = picture(*drawn, rows=1)
    everything = [("s", name) for name in "abcde"]
    try:
        made = find_order(here, empty=everything, thin=[], load=everything)
    except CircularReferences:
        return
    assert sorted(made.load) == everything
    for one in drawn:
        if one.of != one.to and not (one.deferrable and made.deferred):
            assert made.load.index(one.to) < made.load.index(one.of)
