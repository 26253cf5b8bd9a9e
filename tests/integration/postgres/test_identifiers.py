"""Names of freshdb's objects: composing, parsing, quoting."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freshdb_service.postgres import Blueprint
from freshdb_service.postgres.names import Kind, Name, literal, quoted

prefixes = st.from_regex(r"[a-z][a-z0-9]{0,15}", fullmatch=True)
kinds = st.sampled_from(list(Kind))


@given(prefixes, kinds, st.uuids(), st.integers(0, 10**9))
def test_composed_name_parses_to_the_same_name(
    prefix: str, kind: Kind, identifier: UUID, counter: int
) -> None:
    name = Name.of(prefix, kind, identifier, counter if kind.counted else None)
    assert Name.parse(prefix, str(name)) == name
    assert len(str(name).encode()) <= 63
    assert quoted(name) == f'"{name}"'


@given(prefixes, st.text())
def test_parsed_name_is_written_unchanged(prefix: str, text: str) -> None:
    name = Name.parse(prefix, f"{prefix}_{text}")
    assert name is None or str(name) == f"{prefix}_{text}"


@pytest.mark.parametrize(
    "text",
    [
        "freshdb_d_0123456789ab",  # no generation
        "freshdb_d_0123456789ab_01",
        "freshdb_d_0123456789ab_-1",
        "freshdb_d_0123456789ab_1 ",
        "freshdb_d_0123456789ab_1\n",
        "freshdb_d_0123456789AB_1",
        "freshdb_d_0123456789abc_1",
        "freshdb_x_0123456789ab_1",
        "freshdb_h_0123456789ab_1",
        "freshdb2_d_0123456789ab_1",
        "freshdb_d_0123456789ab_\N{ARABIC-INDIC DIGIT ONE}",
        "accounts",
        "",
    ],
)
def test_similar_text_does_not_parse_as_name(text: str) -> None:
    assert Name.parse("freshdb", text) is None


@pytest.mark.parametrize("prefix", ["", "Fresh", "fresh-db", "fresh_db", "1fresh", 'a"b', "a" * 17])
def test_ambiguous_prefix_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="prefix"):
        Name.of(prefix, Kind.DATABASE, uuid4(), 1)


def test_counter_must_fit_kind() -> None:
    with pytest.raises(ValueError, match="counter"):
        Name.of("freshdb", Kind.DATABASE, uuid4())
    with pytest.raises(ValueError, match="counter"):
        Name.of("freshdb", Kind.SHARED, uuid4(), 1)
    with pytest.raises(ValueError, match="counter"):
        Name.of("freshdb", Kind.TEMPLATE, uuid4(), -1)


@given(st.text(min_size=1))
def test_quoted_identifier_cannot_be_escaped(text: str) -> None:
    try:
        shown = quoted(text)
    except ValueError:
        assert "\0" in text or len(text.encode("utf-8", "surrogatepass")) > 63
        return
    assert shown[0] == shown[-1] == '"'
    assert shown[1:-1].replace('""', "").count('"') == 0
    assert shown[1:-1].replace('""', '"') == text


@given(st.text())
def test_literal_accepts_only_safe_characters(text: str) -> None:
    try:
        shown = literal(text)
    except ValueError:
        return
    assert not set("'\\\n\0") & set(shown[1:-1])


def test_blueprint_replaces_whole_names_in_one_pass() -> None:
    seed, owner = "freshdb_seed_0123456789ab", "freshdb_h_0123456789ab"
    blueprint = Blueprint(
        shared_database=owner,
        seed_schema=seed,
        build_role=owner,
        before=f"CREATE TABLE {seed}.t (); CREATE TABLE {seed}.{seed}x (); GRANT ALL ON {seed}.t TO {owner};",
        load=f"INSERT INTO {seed}_copy.t SELECT * FROM ONLY {seed}.t;",
        after="",
    )
    name = Name("freshdb", Kind.SCHEMA, "ba9876543210", 7)
    before, load, after = blueprint.scripts(name)
    assert (
        before
        == f"CREATE TABLE {name}.t (); CREATE TABLE {name}.{seed}x (); GRANT ALL ON {name}.t TO {name};"
    )
    assert load == f"INSERT INTO {name}.t SELECT * FROM ONLY {seed}.t;"
    assert after == ""
    assert Blueprint.from_json(blueprint.to_json()) == blueprint
    with pytest.raises(KeyError):
        Blueprint.from_json({})
