"""Differences of sessions and behaviour, and values of a former holder."""

from __future__ import annotations

from typing import Final

from tests.twins.seeds.seed import seed

SESSIONS: Final = (
    seed(
        "prepared transaction",
        "sessions.prepared_transactions",
        "BEGIN; UPDATE seed SET v = v WHERE id = 1; PREPARE TRANSACTION 'left by {role}'",
    ),
    seed(
        "lock of a prepared transaction",
        "sessions.locks",
        "BEGIN; UPDATE seed SET v = v WHERE id = 1; PREPARE TRANSACTION 'left by {role}'",
    ),
    seed(
        "locked rows",
        "writes.locked_rows",
        "BEGIN; SELECT FROM seed FOR UPDATE; PREPARE TRANSACTION 'left by {role}'",
    ),
    seed("advisory lock", "sessions.advisory_locks", "SELECT pg_advisory_lock(7)", held=True),
    seed("open session", "sessions.activity", "SELECT 1", held=True),
    seed(
        "read-only transactions",
        "sessions.transaction",
        "ALTER ROLE CURRENT_USER SET default_transaction_read_only = on",
    ),
    seed("search path", "sessions.names", "ALTER ROLE CURRENT_USER SET search_path = public"),
    seed("setting that differs", "sessions.changed_settings", "ALTER ROLE CURRENT_USER SET work_mem = '5MB'"),
)
BEHAVIOUR: Final = (
    seed("extra row", "behaviour.counts_of_rows", "INSERT INTO plain VALUES (3, NULL)"),
    seed(
        "table of a migration tool",
        "behaviour.missing_names",
        "CREATE TABLE alembic_version (version_num text)",
    ),
    seed(
        "renamed constraint", "writes.violations", "ALTER TABLE seed RENAME CONSTRAINT seed_pkey TO seed_key"
    ),
    seed(
        "trigger without effect",
        "writes.trigger_effects",
        "ALTER TABLE audited DISABLE TRIGGER ALL",
        superuser=True,
    ),
    seed("used sequence", "changes.next_values", "SELECT nextval('untouched')"),
    seed("used identity", "changes.new_rows", "BEGIN; INSERT INTO item (name) VALUES ('x'); ROLLBACK"),
    seed("order of UPDATE RETURNING", "writes.update_returning", "UPDATE seed SET v = v WHERE id = 1"),
    seed(
        "order of DELETE RETURNING",
        "writes.delete_returning",
        "UPDATE audited SET state = state WHERE id = 1",
    ),
    seed(
        "lost owner",
        "changes.definitions",
        "ALTER FUNCTION note_change() OWNER TO CURRENT_USER",
        "ALTER TABLE item OWNER TO freshdb",
        superuser=True,
    ),
    seed(
        "row that conflicts",
        "writes.upserts",
        "UPDATE customer SET city = 'x' WHERE id = 1",
        "DELETE FROM seed WHERE id = 1",
    ),
    seed("no cascade", "writes.cascade", "ALTER TABLE empty_two DROP CONSTRAINT empty_two_empty_one_id_fkey"),
    seed("more updated rows", "writes.updated_rows", "INSERT INTO plain VALUES (3, NULL)"),
    seed("refreshed view", "changes.refreshed_view", "UPDATE customer SET city = 'city 1' WHERE id = 2"),
    seed("missing sequence", "behaviour.unused_sequences", "DROP SEQUENCE untouched"),
)
MARKERS: Final = (
    seed(
        "marker in a histogram",
        "marker.anywhere",
        "INSERT INTO seed VALUES (9001, 1, 'TWINMARK')",
        "ANALYZE seed",
        "DELETE FROM seed WHERE id = 9001",
    ),
    seed(
        "marker in extended statistics",
        "marker.anywhere",
        "INSERT INTO measured SELECT n, 'TWINMARK', 7, '2024-01-01' FROM generate_series(2000, 3000) AS n",
        "ANALYZE measured",
        "DELETE FROM measured WHERE kind = 'TWINMARK'",
    ),
    seed("marker in a row", "marker.anywhere", "UPDATE item SET name = 'a TWINMARK b'"),
    seed("marker in a name", "marker.anywhere", "CREATE SEQUENCE left_TWINMARK_here"),
    seed(
        "marker in a setting",
        "marker.anywhere",
        "ALTER ROLE CURRENT_USER SET search_path = '$user', 'TWINMARK'",
    ),
    seed("marker in a comment", "marker.anywhere", "COMMENT ON TABLE seed IS 'TWINMARK'"),
    seed("marker in a default", "marker.anywhere", "ALTER TABLE item ALTER name SET DEFAULT 'TWINMARK'"),
    seed(
        "marker in a missing value",
        "marker.anywhere",
        "ALTER TABLE plain ADD extra text DEFAULT 'TWINMARK'",
        "ALTER TABLE plain ALTER extra DROP DEFAULT",
        "DELETE FROM plain",
    ),
    seed(
        "marker in bytes",
        "marker.anywhere",
        "CREATE TABLE extra (b bytea)",
        "INSERT INTO extra VALUES ('TWINMARK')",
    ),
    seed("marker in a large object", "marker.anywhere", "SELECT lo_from_bytea(0, 'TWINMARK')"),
    seed(
        "marker in a function",
        "marker.anywhere",
        "CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $$ SELECT 'TWINMARK' $$",
    ),
    seed("marker in an enumeration", "marker.anywhere", "CREATE TYPE mood AS ENUM ('TWINMARK')"),
    seed("marker in an application name", "marker.anywhere", "SET application_name = 'TWINMARK'", held=True),
    seed(
        "marker in a prepared transaction",
        "marker.anywhere",
        "BEGIN; UPDATE seed SET v = v WHERE id = 1; PREPARE TRANSACTION 'TWINMARK {role}'",
    ),
    seed(
        "marker in a view's rule",
        "marker.anywhere",
        "CREATE VIEW extra AS SELECT * FROM seed WHERE v <> 'TWINMARK'",
    ),
)
