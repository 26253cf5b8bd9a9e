"""Snapshots show every kind of difference, and none between equal databases."""

from __future__ import annotations

import pytest

from tests.hygiene.change import Holder
from tests.hygiene.conftest import LeasedPools
from tests.hygiene.snapshot import Subject, differences
from tests.servers import wanted_majors

MAJOR = wanted_majors()[0]
REPORTED = {
    "INSERT INTO pair VALUES (7, 'x')": ["changed: content: rows of public.pair"],
    "UPDATE person SET ratio = 0 WHERE mail = 'zero@example.org'": ["changed: content: rows of public.person"],
    "UPDATE big SET filler = 'x' WHERE id = 2999": ["changed: content: rows of public.big"],
    "SELECT setval('moved', 42, true)": ["changed: content: sequence public.moved"],
    "REFRESH MATERIALIZED VIEW by_kind": ["changed: content: rows of public.by_kind"],
    "SELECT lo_create(4711)": ["unexpected: cluster: large object: 4711"],
    "CREATE VIEW mine AS SELECT 1 AS one": ["unexpected: catalogs: pg_class public.mine", "unexpected: dump: VIEW mine"],
    "CREATE OR REPLACE VIEW calm_people AS SELECT id, mail, mood FROM person": ["changed: dump: VIEW calm_people"],
    "ALTER TABLE note ALTER COLUMN body SET DEFAULT 'x'": ["unexpected: catalogs: pg_attrdef public.note 2"],
    "ALTER TABLE purchase_line DROP CONSTRAINT purchase_line_amount_check":
        ["missing: catalogs: pg_constraint public.purchase_line"],
    "ALTER TABLE booking ADD COLUMN b int; ALTER TABLE booking DROP COLUMN b":
        ["unexpected: catalogs: pg_attribute public.booking 3"],
    "ALTER TABLE category ENABLE TRIGGER category_changed": ["changed: dump: TRIGGER category category_changed"],
    "ALTER POLICY own ON secret USING (true)": ["changed: dump: POLICY secret own"],
    "GRANT DELETE ON team TO PUBLIC": ["changed: catalogs: pg_class public.team", "unexpected: dump: ACL TABLE team"],
    "ALTER DEFAULT PRIVILEGES GRANT DELETE ON TABLES TO PUBLIC":
        ["changed: dump: DEFAULT ACL DEFAULT PRIVILEGES FOR TABLES"],
    "COMMENT ON TABLE person IS NULL": ["missing: dump: COMMENT TABLE person"],
    "COMMENT ON DATABASE @database@ IS 'mine'": ["changed: cluster: database: comment"],
    "ALTER DATABASE @database@ SET work_mem = '1MB'": ["unexpected: cluster: setting: all roles in {lease}"],
    "ALTER ROLE CURRENT_USER SET work_mem = '1MB'": ["unexpected: holder: setting work_mem"],
    "GRANT CREATE ON DATABASE @database@ TO PUBLIC": ["changed: cluster: database: privileges"],
    "BEGIN; SELECT pg_advisory_xact_lock(5); PREPARE TRANSACTION '@login@'":
        ["unexpected: cluster: prepared transaction: {lease}"],
}  # fmt: skip
"""Statements that run in this order, each with the lines that ``differences`` must report."""


@pytest.mark.xdist_group(f"hygiene-{MAJOR}")
def test_each_query_reports_its_difference(leased_pools: LeasedPools) -> None:
    leased = leased_pools.leased_pool(MAJOR, "database")
    snapshotter = leased.pool.snapshotter
    assert differences(leased.baseline, snapshotter.snapshot(leased.lease.subject)) == []
    with Holder(leased.lease.subject) as holder:
        holder.run(*REPORTED)
        holder.run_in(holder.connect(), "LISTEN nothing")
        holder.connect_elsewhere("postgres")
        reported = differences(leased.baseline, snapshotter.snapshot(leased.lease.subject))
        leased.lease = leased.pool.next_of(leased.lease)
    expected = [
        *(line for lines in REPORTED.values() for line in lines),
        "unexpected: cluster: session: {lease} (2)",
    ]
    assert [line for line in expected if not any(one.startswith(line) for one in reported)] == []
    assert differences(leased.baseline, snapshotter.snapshot(leased.lease.subject)) == []


@pytest.mark.xdist_group(f"hygiene-{MAJOR}")
def test_unreadable_database_counts_as_different(leased_pools: LeasedPools) -> None:
    leased = leased_pools.leased_pool(MAJOR, "database")
    missing = Subject(
        superuser=leased.lease.subject.superuser,
        url=leased.lease.subject.url.replace("_d_", "_x_"),
        database="gone",
        user=leased.lease.subject.user,
        schema=None,
    )
    assert leased.pool.snapshotter.differs(leased.baseline, missing)
    keys = set(leased.pool.snapshotter.snapshot(missing))
    assert keys == {"cluster: superuser is refused", "holder: refused", "dump: failed"}


def test_only_names_of_the_lease_are_replaced() -> None:
    subject = Subject("postgresql://x/postgres", "", "f_d_abc_1", "f_d_abc_1", None)
    assert subject.anonymous("f_d_abc_1.t f_d_abc_10 f_d_abc_0 xf_d_abc_1") == (
        "{lease}.t f_d_abc_10 f_d_abc_0 xf_d_abc_1"
    )
    shared = Subject("postgresql://x/postgres", "", "f_h_abc", "f_s_abc_2", "f_s_abc_2")
    assert shared.anonymous("f_h_abc, f_s_abc_2, f_s_abc_1") == "{shared}, {lease}, f_s_abc_1"
    assert shared.family == "f_s_abc_"


def test_every_kind_of_difference_is_reported() -> None:
    reported = differences({"a": "1", "b": "2", "c": "3"}, {"b": "2", "c": "x" * 700, "d": "4"})
    assert reported[0] == "missing: a: 1"
    assert reported[1].startswith("changed: c: 3  became  xxx")
    assert reported[1].endswith("… (700 characters)")
    assert reported[2:] == ["unexpected: d: 4"]
