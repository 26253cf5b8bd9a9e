"""Actions that change definitions and undo that: the holder leaves every definition as it was."""

from __future__ import annotations

from typing import Final

from tests.twins.holder_actions.action import (
    DATABASE_ONLY,
    Ending,
    HolderAction,
    changed_twice,
    created_and_dropped,
    larger_than,
    newer_than_the_template,
    rewritten,
)

ACTIONS: Final = (
    HolderAction(
        "create and drop an index",
        ("CREATE INDEX TWINMARK ON plain (n)", "DROP INDEX TWINMARK"),
        leaves=("SELECT reltuples::int FROM pg_class WHERE oid = 'plain'::regclass", 3),
    ),
    HolderAction(
        "create an index and roll back",
        "CREATE INDEX TWINMARK ON plain (n)",
        leaves=("SELECT reltuples::int FROM pg_class WHERE oid = 'plain'::regclass", 3),
        ending=Ending.ROLLBACK,
    ),
    HolderAction(
        "create and drop an index concurrently",
        ("CREATE INDEX CONCURRENTLY TWINMARK ON hashed (word)", "DROP INDEX CONCURRENTLY TWINMARK"),
        leaves=created_and_dropped("pg_index"),
    ),
    HolderAction(
        "drop an index and create it again",
        ("DROP INDEX orders_customer", "CREATE INDEX orders_customer ON orders (customer_id)"),
        leaves=newer_than_the_template("'orders_customer'::regclass"),
    ),
    HolderAction(
        "create and drop a trigger",
        (
            "CREATE TRIGGER TWINMARK AFTER UPDATE ON plain FOR EACH ROW EXECUTE FUNCTION note_change()",
            "DROP TRIGGER TWINMARK ON plain",
        ),
        leaves=("SELECT relhastriggers FROM pg_class WHERE oid = 'plain'::regclass", True),
    ),
    HolderAction(
        "create and drop a rule",
        ("CREATE RULE TWINMARK AS ON DELETE TO seed DO INSTEAD NOTHING", "DROP RULE TWINMARK ON seed"),
        leaves=("SELECT relhasrules FROM pg_class WHERE oid = 'seed'::regclass", True),
    ),
    HolderAction(
        "create a policy, and drop it",
        (
            "CREATE POLICY TWINMARK ON customer USING (name = 'TWINMARK')",
            "ALTER TABLE customer ENABLE ROW LEVEL SECURITY",
            "ALTER TABLE customer DISABLE ROW LEVEL SECURITY",
            "DROP POLICY TWINMARK ON customer",
        ),
        leaves=created_and_dropped("pg_policy"),
    ),
    HolderAction(
        "create and drop a view",
        ("CREATE VIEW TWINMARK AS SELECT * FROM large_order", "DROP VIEW TWINMARK"),
        leaves=created_and_dropped("pg_rewrite"),
    ),
    HolderAction(
        "add and drop a column",
        (
            "ALTER TABLE seed ADD TWINMARK text DEFAULT 'TWINMARK'",
            "UPDATE seed SET TWINMARK = 'TWINMARK 2' WHERE id = 1",
            "ALTER TABLE seed DROP TWINMARK",
        ),
        leaves=("SELECT count(*) FROM pg_attribute WHERE attrelid = 'seed'::regclass AND attisdropped", 1),
    ),
    HolderAction(
        "add and drop a generated column, which rewrites the table",
        (
            "ALTER TABLE orders ADD TWINMARK numeric GENERATED ALWAYS AS (total * 2) STORED",
            "ALTER TABLE orders DROP TWINMARK",
        ),
        leaves=rewritten("orders"),
    ),
    HolderAction(
        "change a column's type and change it back",
        ("ALTER TABLE measured ALTER amount TYPE bigint", "ALTER TABLE measured ALTER amount TYPE integer"),
        leaves=("SELECT count(*) FROM pg_stats WHERE tablename = 'measured' AND attname = 'amount'", 0),
    ),
    HolderAction(
        "allow nulls in a column and forbid them again",
        ("ALTER TABLE item ALTER name DROP NOT NULL", "ALTER TABLE item ALTER name SET NOT NULL"),
        leaves=changed_twice("pg_attribute"),
    ),
    HolderAction(
        "set and drop a column's default",
        (
            "ALTER TABLE plain ALTER word SET DEFAULT 'TWINMARK'",
            "INSERT INTO plain (n) VALUES (9)",
            "ALTER TABLE plain ALTER word DROP DEFAULT",
        ),
        leaves=("SELECT word FROM plain WHERE n = 9", "TWINMARK"),
    ),
    HolderAction(
        "store a column outside the table and set its storage back",
        (
            "ALTER TABLE document ALTER long SET STORAGE EXTERNAL",
            "UPDATE document SET long = repeat('TWINMARK', 5000)",
            "ALTER TABLE document ALTER long SET STORAGE EXTENDED",
        ),
        leaves=("SELECT pg_column_size(long) FROM document WHERE id = 1", 40000),
    ),
    HolderAction(
        "create and drop a child table",
        ("CREATE TABLE TWINMARK () INHERITS (plain)", "DROP TABLE TWINMARK"),
        leaves=("SELECT relhassubclass FROM pg_class WHERE oid = 'plain'::regclass", True),
    ),
    HolderAction(
        "attach, detach and drop a partition",
        (
            "CREATE TABLE TWINMARK PARTITION OF event FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
            "INSERT INTO event VALUES (1, '2026-05-05', 'TWINMARK')",
            "ALTER TABLE event DETACH PARTITION TWINMARK",
            "DROP TABLE TWINMARK",
        ),
        leaves=created_and_dropped("pg_inherits"),
    ),
    HolderAction(
        "detach a partition and attach it again",
        (
            "ALTER TABLE event DETACH PARTITION event_2025 CONCURRENTLY",
            "ALTER TABLE event ATTACH PARTITION event_2025 FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')",
        ),
        leaves=created_and_dropped("pg_inherits"),
    ),
    HolderAction(
        "set a storage parameter, rewrite the table and reset it",
        ("ALTER TABLE seed SET (fillfactor = 10)", "VACUUM FULL seed", "ALTER TABLE seed RESET (fillfactor)"),
        leaves=larger_than(80_000, "seed"),
    ),
    HolderAction(
        "turn autovacuum off and on for a table",
        (
            "ALTER TABLE item SET (autovacuum_enabled = off, toast.autovacuum_enabled = off)",
            "ALTER TABLE item RESET (autovacuum_enabled, toast.autovacuum_enabled)",
        ),
        leaves=changed_twice("pg_class"),
    ),
    HolderAction(
        "rename a table, a column and an index, and rename them back",
        (
            "ALTER TABLE seed RENAME TO TWINMARK",
            "ALTER TABLE TWINMARK RENAME v TO TWINMARK",
            "ALTER INDEX seed_k RENAME TO TWINMARK_index",
            "ALTER INDEX TWINMARK_index RENAME TO seed_k",
            "ALTER TABLE TWINMARK RENAME TWINMARK TO v",
            "ALTER TABLE TWINMARK RENAME TO seed",
        ),
        leaves=changed_twice("pg_attribute"),
    ),
    HolderAction(
        "swap two tables by their names and swap them back",
        (
            "BEGIN",
            "ALTER TABLE hashed RENAME TO TWINMARK",
            "ALTER TABLE ranged RENAME TO hashed",
            "ALTER TABLE TWINMARK RENAME TO ranged",
            "INSERT INTO ranged VALUES ('TWINMARK')",
            "COMMIT",
            "ALTER TABLE ranged RENAME TO TWINMARK",
            "ALTER TABLE hashed RENAME TO ranged",
            "ALTER TABLE TWINMARK RENAME TO hashed",
        ),
        leaves=("SELECT count(*) FROM hashed WHERE word = 'TWINMARK'", 1),
    ),
    HolderAction(
        "comment and remove the comments",
        (
            "COMMENT ON TABLE seed IS 'TWINMARK'",
            "COMMENT ON COLUMN seed.v IS 'TWINMARK'",
            "COMMENT ON TABLE seed IS NULL",
            "COMMENT ON COLUMN seed.v IS NULL",
        ),
        leaves=created_and_dropped("pg_description"),
    ),
    HolderAction(
        "create and drop a schema",
        (
            "CREATE SCHEMA TWINMARK",
            "CREATE TABLE TWINMARK.rows AS SELECT * FROM seed",
            "DROP SCHEMA TWINMARK CASCADE",
        ),
        leaves=created_and_dropped("pg_namespace"),
        isolations=DATABASE_ONLY,
    ),
    HolderAction(
        "create and drop types",
        (
            "CREATE TYPE TWINMARK_enum AS ENUM ('TWINMARK')",
            "CREATE TYPE TWINMARK_row AS (n integer, word text)",
            "DROP TYPE TWINMARK_enum, TWINMARK_row",
        ),
        leaves=created_and_dropped("pg_enum"),
    ),
    HolderAction(
        "create and drop a domain",
        ("CREATE DOMAIN TWINMARK AS text CHECK (VALUE <> 'TWINMARK')", "DROP DOMAIN TWINMARK"),
        leaves=created_and_dropped("pg_constraint"),
    ),
    HolderAction(
        "create and drop a function",
        (
            "CREATE FUNCTION TWINMARK() RETURNS text RETURN 'TWINMARK'",
            "SELECT TWINMARK()",
            "DROP FUNCTION TWINMARK",
        ),
        leaves=created_and_dropped("pg_proc"),
    ),
    HolderAction(
        "replace the trigger function and put it back",
        (
            """
            CREATE OR REPLACE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO audit_entry (text) VALUES ('TWINMARK'); RETURN new; END $$
            """,
            "UPDATE audited SET state = 'old' WHERE id = 1",
            """
            CREATE OR REPLACE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO audit_entry (text) VALUES (new.state); RETURN new; END $$
            """,
        ),
        leaves=("SELECT count(*) FROM audit_entry WHERE text = 'TWINMARK'", 1),
    ),
    HolderAction(
        "create and drop a table",
        ("CREATE TABLE TWINMARK AS SELECT * FROM orders", "DROP TABLE TWINMARK"),
        leaves=created_and_dropped("pg_class"),
    ),
    HolderAction(
        "create and drop a temporary table",
        (
            "CREATE TEMPORARY TABLE TWINMARK AS SELECT * FROM customer",
            "ANALYZE TWINMARK",
            "DROP TABLE TWINMARK",
        ),
        leaves=created_and_dropped("pg_type"),
    ),
    HolderAction(
        "drop a table and create it again",
        (
            "DROP TABLE hashed",
            "CREATE TABLE hashed (word text)",
            "CREATE INDEX hashed_word ON hashed USING hash (word)",
        ),
        leaves=newer_than_the_template("'hashed'::regclass"),
    ),
    HolderAction(
        "drop a view and create it again",
        ("DROP VIEW large_order", "CREATE VIEW large_order AS SELECT * FROM orders WHERE total > 500"),
        leaves=newer_than_the_template("'large_order'::regclass"),
    ),
    HolderAction(
        "disable a trigger, write, and enable it",
        (
            "ALTER TABLE audited DISABLE TRIGGER audited_change",
            "UPDATE audited SET state = 'TWINMARK'",
            "ALTER TABLE audited ENABLE TRIGGER audited_change",
        ),
        leaves=("SELECT count(*) FROM audited, audit_entry WHERE state = 'TWINMARK' AND text = 'new'", 4),
    ),
    HolderAction(
        "make a table unlogged and logged again",
        ("ALTER TABLE place SET UNLOGGED", "ALTER TABLE place SET LOGGED"),
        leaves=rewritten("place"),
    ),
    HolderAction(
        "make an unlogged table logged and unlogged again",
        (
            "INSERT INTO scratch VALUES (1, 'TWINMARK')",
            "ALTER TABLE scratch SET LOGGED",
            "ALTER TABLE scratch SET UNLOGGED",
        ),
        leaves=rewritten("scratch"),
    ),
    HolderAction(
        "drop a foreign key and add it again",
        (
            "ALTER TABLE orders DROP CONSTRAINT orders_customer_id_fkey",
            "ALTER TABLE orders ADD FOREIGN KEY (customer_id) REFERENCES customer (id)",
        ),
        leaves=newer_than_the_template(
            "(SELECT max(oid::bigint) FROM pg_constraint WHERE conrelid = 'orders'::regclass)"
        ),
    ),
    HolderAction(
        "drop a primary key and add it again",
        ("ALTER TABLE place DROP CONSTRAINT place_pkey", "ALTER TABLE place ADD PRIMARY KEY (id)"),
        leaves=newer_than_the_template("'place_pkey'::regclass"),
    ),
    HolderAction(
        "add, validate and drop a check constraint",
        (
            "ALTER TABLE seed ADD CONSTRAINT TWINMARK CHECK (v <> 'TWINMARK') NOT VALID",
            "ALTER TABLE seed VALIDATE CONSTRAINT TWINMARK",
            "ALTER TABLE seed DROP CONSTRAINT TWINMARK",
        ),
        leaves=created_and_dropped("pg_constraint"),
    ),
    HolderAction(
        "grant and revoke a right",
        ("GRANT SELECT ON seed TO PUBLIC", "REVOKE SELECT ON seed FROM PUBLIC"),
        leaves=("SELECT relacl IS NOT NULL FROM pg_class WHERE oid = 'seed'::regclass", True),
    ),
    HolderAction(
        "set and revoke default privileges",
        (
            "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC",
            "ALTER DEFAULT PRIVILEGES REVOKE SELECT ON TABLES FROM PUBLIC",
        ),
        leaves=created_and_dropped("pg_default_acl"),
    ),
    HolderAction(
        "change a table's replica identity and set it back",
        ("ALTER TABLE customer REPLICA IDENTITY FULL", "ALTER TABLE customer REPLICA IDENTITY DEFAULT"),
        leaves=changed_twice("pg_class"),
    ),
    HolderAction(
        "drop extended statistics and create them again",
        (
            "DROP STATISTICS measured_extended",
            "CREATE STATISTICS measured_extended (ndistinct, dependencies, mcv) ON kind, amount FROM measured",
        ),
        leaves=(
            "SELECT count(*) FROM pg_stats_ext WHERE statistics_name = 'measured_extended'",
            0,
        ),
    ),
    HolderAction(
        "drop a column and roll back",
        ("ALTER TABLE seed DROP v", "ALTER TABLE measured DROP kind", "DROP TABLE orders CASCADE"),
        leaves=("SELECT n_dead_tup > 0 FROM pg_stat_sys_tables WHERE relname = 'pg_attribute'", True),
        ending=Ending.ROLLBACK,
    ),
    HolderAction(
        "rebuild an analyzed table by copying it",
        (
            "CREATE TABLE TWINMARK (LIKE measured INCLUDING ALL)",
            "INSERT INTO TWINMARK SELECT * FROM measured",
            "DROP TABLE TWINMARK",
            "ANALYZE measured (at)",
        ),
        leaves=created_and_dropped("pg_statistic_ext"),
    ),
)
