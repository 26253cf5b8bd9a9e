"""The probes and the comparison: two clones are equal, and every seeded difference is found. No engine is involved."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import date
from typing import Final

import psycopg
import pytest

from tests.servers import PostgresServer
from tests.twins.clones import Clone, SharedDatabase, TemplateDatabase
from tests.twins.compare import ABSENT, Difference, Observed, compare, observe, to_json
from tests.twins.probes import LEFT_OUT, PROBES, Isolation, Json
from tests.twins.probes.values import Names
from tests.twins.seeds import SEEDS, Seed

# Markers in catalogs of the whole server are visible in every database, so these tests do not run side by side.
pytestmark = pytest.mark.xdist_group("twins")
_MAJORS: Final = (18, 16, 15)
_MAJORS_OF_SEEDS: Final = (18, 15)

_WORK: Final = (
    "COMMENT ON TABLE seed IS 'a comment'",
    "CREATE TYPE mood AS ENUM ('good')",
    "CREATE DOMAIN extra AS text CHECK (value <> '')",
    "CREATE POLICY extra ON seed USING (true)",
    "ALTER TABLE audited DISABLE TRIGGER audited_change",
    "SELECT lo_create(0)",
    "ALTER ROLE CURRENT_USER SET work_mem = '5MB'",
    "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC",
    "GRANT SELECT ON seed TO PUBLIC",
    "UPDATE seed SET v = v",
    "DELETE FROM orders",
    "ANALYZE",
    "BEGIN; UPDATE plain SET n = n; PREPARE TRANSACTION 'of {role}'",
)
"""The work of another lease in the same shared database."""


class Twins:
    """The fresh databases of one server, and the results of probes on fresh ones."""

    def __init__(self, dsn: str) -> None:
        self.template = TemplateDatabase(dsn)
        self.shared = SharedDatabase(dsn)
        self._fresh: dict[tuple[Isolation, str], Observed] = {}

    def fresh(self, stack: ExitStack, isolation: Isolation) -> Clone:
        return stack.enter_context(self.template.clone() if isolation == "database" else self.shared.schema())

    def observed(self, isolation: Isolation, probe: str) -> Observed:
        """Return the result of one probe on a fresh database."""
        if (isolation, probe) not in self._fresh:
            with ExitStack() as stack:
                clone = self.fresh(stack, isolation)
                self._fresh[isolation, probe] = observe(clone.dsn, isolation, only={probe})
        return self._fresh[isolation, probe]

    def drop(self) -> None:
        self.template.drop()
        self.shared.drop()


@pytest.fixture(scope="module", params=_MAJORS, ids=lambda major: f"pg{major}")
def twins(request: pytest.FixtureRequest) -> Iterator[Twins]:
    server: PostgresServer = request.getfixturevalue(f"postgres_{request.param}")
    made = Twins(server.dsn)
    yield made
    made.drop()


@pytest.mark.parametrize("isolation", ["database", "schema"])
@pytest.mark.parametrize("time", [1, 2, 3])
def test_two_fresh_databases_show_no_difference(twins: Twins, isolation: Isolation, time: int) -> None:
    del time
    with ExitStack() as stack:
        one, other = twins.fresh(stack, isolation), twins.fresh(stack, isolation)
        differences = compare(observe(one.dsn, isolation), observe(other.dsn, isolation))
    assert not differences, "\n".join(map(str, differences))


def test_work_of_other_leases_is_no_difference(twins: Twins) -> None:
    with ExitStack() as stack:
        one, other, neighbour = (twins.fresh(stack, "schema") for _ in range(3))
        fresh = observe(one.dsn, "schema")
        neighbour.execute(*_WORK)
        session = stack.enter_context(psycopg.connect(neighbour.dsn, autocommit=True))
        for statement in (
            "CREATE TEMPORARY TABLE gone (n integer)",
            "SELECT pg_advisory_lock(7)",
            "LISTEN probe",
        ):
            session.execute(statement)
        differences = compare(fresh, observe(other.dsn, "schema"))
    assert not differences, "\n".join(map(str, differences))


@pytest.mark.parametrize(
    "twins", _MAJORS_OF_SEEDS, indirect=True, ids=lambda major: f"pg{major}", scope="module"
)
@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: f"{seed.isolation}: {seed.name}")
def test_seeded_difference_is_found(twins: Twins, seed: Seed) -> None:
    fresh = twins.observed(seed.isolation, seed.probe)
    with ExitStack() as stack:
        clone = twins.fresh(stack, seed.isolation)
        if seed.held:
            session = stack.enter_context(psycopg.connect(clone.dsn, autocommit=True))
            for statement in seed.sql:
                session.execute(statement)
        else:
            clone.execute(*seed.sql, superuser=seed.superuser)
        reused = observe(clone.dsn, seed.isolation, only={seed.probe})
    differences = compare(fresh, reused)
    assert {difference.probe for difference in differences} == {seed.probe}
    assert len(str(differences)) < 20_000


def test_results_are_readable_json(twins: Twins) -> None:
    observed = twins.observed("database", "order.rows")
    assert Observed.from_json(observed.to_json()) == observed
    table = observed.results["order.rows"]
    assert isinstance(table, dict)
    assert table["item"] == ["(1,pen)"]


def test_error_of_a_probe_is_its_result(twins: Twins) -> None:
    with ExitStack() as stack:
        clone = twins.fresh(stack, "database")
        clone.execute("REVOKE SELECT ON ticket FROM CURRENT_USER", "DROP TABLE plain")
        results = observe(clone.dsn, "database", only={"sequences.states", "sizes.values"}).results
    states = results["sequences.states"]
    assert isinstance(states, dict)
    assert isinstance(states["ticket"], dict)
    assert states["ticket"]["error"] == "42501"
    assert results["sizes.values"] == {"error": "42P01"}


def test_database_without_connections_has_an_error_for_every_probe(twins: Twins) -> None:
    with ExitStack() as stack:
        clone = twins.fresh(stack, "database")
        clone.execute("ALTER ROLE {role} NOLOGIN", superuser=True)
        observed = observe(clone.dsn, "database", only={"order.rows", "plans.count"})
    assert observed.results == {name: {"error": "no connection"} for name in ("order.rows", "plans.count")}


@pytest.mark.parametrize(
    ("fresh", "reused", "places"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 2}, ["a"]),
        ({"a": 1}, {}, ["a"]),
        ({}, {"b": None}, ["b"]),
        ([1, 2], [1, 3], ["1"]),
        ([1], [1, 2], ["1"]),
        ({"a": [{"b": 1}]}, {"a": [{"b": True}]}, ["a/0/b"]),
        ({"error": "42501"}, [1], ["result"]),
        ("x", "y", ["result"]),
    ],
)
def test_place_of_a_difference_is_its_path(fresh: Json, reused: Json, places: list[str]) -> None:
    found = compare(_observed("order.rows", fresh), _observed("order.rows", reused))
    assert [difference.path for difference in found] == places


@pytest.mark.parametrize(
    ("name", "fresh", "reused", "equal"),
    [
        ("plans.count", {"Total Cost": 100.0}, {"Total Cost": 100.9}, True),
        ("plans.count", {"Total Cost": 100.0}, {"Total Cost": 101.2}, False),
        ("plans.count", {"below": [{"Total Cost": 100.0}]}, {"below": [{"Total Cost": 100.5}]}, True),
        ("plans.count", {"Plan Rows": 100}, {"Plan Rows": 101}, False),
        ("plans.count", {"Total Cost": 100.0}, {"Total Cost": None}, False),
        ("sizes.tables", {"empty_one": {"main": 0}}, {"empty_one": {"main": 8192}}, True),
        ("sizes.tables", {"empty_one": {"main": 0}}, {"empty_one": {"main": 16384}}, False),
        ("sizes.tables", {"seed": {"main": 16384}}, {"seed": {"main": 24576}}, False),
    ],
)
def test_tolerance_admits_its_bound(name: str, fresh: Json, reused: Json, equal: bool) -> None:  # noqa: FBT001
    assert (compare(_observed(name, fresh), _observed(name, reused)) == []) is equal


def test_names_of_the_lease_become_words() -> None:
    names = Names({"twin_ab": "<role>", "twin_ab_1": "<database>", "Twin-x": "<other>"})
    assert names.hidden('twin_ab_1 "twin_ab".seed twin_ab_id_seq "Twin-x" xtwin_ab 1twin_ab2') == (
        "<database> <role>.seed <role>_id_seq <other> xtwin_ab 1twin_ab2"
    )
    assert names.hidden("pg_temp_12 pg_toast_temp_3 pg_toast_16400_index") == (
        "pg_temp_<n> pg_toast_temp_<n> pg_toast_<oid>_index"
    )
    assert names.plain({"twin_ab": [1, None, date(2024, 1, 2), b"x"]}) == {
        "<role>": [1, None, "2024-01-02", "78"]
    }
    assert len(str(names.plain("x" * 1000))) < 250
    assert names.plain("x" * 1000) != names.plain("x" * 999 + "y")


def test_result_that_must_be_empty_fails_in_both_twins() -> None:
    left = _observed("marker.anywhere", {"pg_catalog.pg_stats": ["x"]})
    assert compare(left, left)
    assert compare(_observed("marker.anywhere", {}), left)[0].fresh == ABSENT
    assert compare(_observed("marker.anywhere", {}), _observed("marker.anywhere", {"error": "57014"}))


def test_output_is_bounded() -> None:
    many: list[Json] = [f"{n}" + "x" * 10_000 for n in range(1000)]
    differences = compare(_observed("order.rows", []), _observed("order.rows", many))
    assert len(differences) == 9
    assert differences[-1].path == "992 more places"
    assert all(len(str(difference)) < 1000 for difference in differences)
    assert len(json.loads(to_json(differences))) == 9


def test_missing_result_is_a_difference() -> None:
    assert compare(_observed("order.rows", {}), Observed("database", 18)) == [
        Difference("order.rows", "result", {}, ABSENT)
    ]


def test_probes_have_distinct_names_and_say_what_they_observe() -> None:
    assert len({probe.name for probe in PROBES}) == len(PROBES) >= 80
    assert all(probe.observes and "." in probe.name for probe in PROBES)
    assert all(LEFT_OUT.values())


def _observed(name: str, result: Json) -> Observed:
    return Observed("database", 18, {name: result})
