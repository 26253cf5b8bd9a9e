"""Actions that change definitions, settings and rights, and leave these changes."""

from __future__ import annotations

from typing import Final

import psycopg
from psycopg import sql

from tests.twins.holder_actions.action import (
    DATABASE_ONLY,
    Holder,
    HolderAction,
    Observation,
    unique_name,
)


def _large_object(holder: Holder) -> None:
    connection = holder.connect()
    row = connection.execute(
        "SELECT lo_from_bytea(0, convert_to(repeat('TWINMARK', 1000), 'UTF8'))"
    ).fetchone()
    assert row is not None
    connection.execute(f"COMMENT ON LARGE OBJECT {row[0]} IS 'TWINMARK'")


def _prepared_transaction(holder: Holder) -> None:
    connection = holder.connect()
    connection.execute("BEGIN")
    connection.execute("INSERT INTO plain VALUES (7, 'TWINMARK')")
    connection.execute("UPDATE seed SET v = 'TWINMARK' WHERE id = 1")
    connection.execute(f"PREPARE TRANSACTION '{unique_name()}'")


def _database_setting(holder: Holder) -> None:
    connection = holder.connect()
    name = sql.Identifier(connection.info.dbname)
    connection.execute(sql.SQL("ALTER DATABASE {} SET application_name = 'TWINMARK'").format(name))
    connection.execute(sql.SQL("COMMENT ON DATABASE {} IS 'TWINMARK'").format(name))


def _trusted_extension(holder: Holder) -> None:
    """Create an extension that its files mark as trusted, which most servers have."""
    connection = holder.connect()
    connection.execute("CREATE SCHEMA TWINMARK")
    names = connection.execute(
        "SELECT name FROM pg_available_extension_versions WHERE trusted AND NOT installed ORDER BY name"
    ).fetchall()
    if names:
        connection.execute(f'CREATE EXTENSION "{names[0][0]}" SCHEMA TWINMARK')


def _relation(name: str, kind: str) -> Observation:
    return f"SELECT relkind::text FROM pg_class WHERE oid = to_regclass('{name}')", kind


ACTIONS: Final = (
    HolderAction(
        "create a table with rows",
        (
            "CREATE TABLE TWINMARK AS SELECT n, 'TWINMARK' FROM generate_series(1, 100) AS n",
            "ANALYZE TWINMARK",
        ),
        leaves=_relation("TWINMARK", "r"),
    ),
    HolderAction(
        "create an index",
        "CREATE UNIQUE INDEX TWINMARK ON seed (v, k DESC) WHERE v <> 'TWINMARK'",
        leaves=_relation("TWINMARK", "i"),
    ),
    HolderAction(
        "add a column with a default",
        "ALTER TABLE measured ADD TWINMARK text NOT NULL DEFAULT 'TWINMARK'",
        leaves=("SELECT count(*) FROM measured WHERE to_jsonb(measured)->>'twinmark' = 'TWINMARK'", 1000),
    ),
    HolderAction(
        "create a function",
        "CREATE FUNCTION TWINMARK() RETURNS text RETURN 'TWINMARK'",
        leaves=("SELECT count(*) FROM pg_proc WHERE proname = 'twinmark'", 1),
    ),
    HolderAction(
        "create a trigger",
        "CREATE TRIGGER TWINMARK BEFORE DELETE ON audited FOR EACH STATEMENT EXECUTE FUNCTION note_change()",
        leaves=("SELECT count(*) FROM pg_trigger WHERE tgname = 'twinmark'", 1),
    ),
    HolderAction(
        "create a rule",
        "CREATE RULE TWINMARK AS ON INSERT TO plain DO ALSO INSERT INTO hashed VALUES ('TWINMARK')",
        leaves=("SELECT count(*) FROM pg_rules WHERE rulename = 'twinmark'", 1),
    ),
    HolderAction(
        "create a policy and force it",
        (
            "CREATE POLICY TWINMARK ON customer USING (name = 'TWINMARK')",
            "ALTER TABLE customer ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
        ),
        leaves=("SELECT count(*) FROM customer", 0),
    ),
    HolderAction(
        "create views and a materialized view",
        (
            "CREATE VIEW TWINMARK_view AS SELECT 'TWINMARK' FROM city_count",
            "CREATE MATERIALIZED VIEW TWINMARK AS SELECT * FROM TWINMARK_view",
        ),
        leaves=_relation("TWINMARK", "m"),
    ),
    HolderAction(
        "create a sequence", "CREATE SEQUENCE TWINMARK OWNED BY seed.k", leaves=_relation("TWINMARK", "S")
    ),
    HolderAction(
        "create types and a domain",
        (
            "CREATE TYPE TWINMARK AS ENUM ('TWINMARK')",
            "CREATE DOMAIN TWINMARK_text AS text DEFAULT 'TWINMARK'",
            "CREATE TYPE TWINMARK_range AS RANGE (subtype = text)",
        ),
        leaves=("SELECT count(*) FROM pg_enum WHERE enumlabel = 'TWINMARK'", 1),
    ),
    HolderAction(
        "create an operator, an aggregate, a cast and a collation",
        (
            "CREATE FUNCTION TWINMARK(text, text) RETURNS text RETURN 'TWINMARK'",
            "CREATE OPERATOR <@@@> (LEFTARG = text, RIGHTARG = text, FUNCTION = TWINMARK)",
            "CREATE AGGREGATE TWINMARK_sum(text) (SFUNC = TWINMARK, STYPE = text)",
            "CREATE TYPE TWINMARK_row AS (word text)",
            "CREATE FUNCTION TWINMARK_cast(TWINMARK_row) RETURNS integer RETURN 1",
            "CREATE CAST (TWINMARK_row AS integer) WITH FUNCTION TWINMARK_cast(TWINMARK_row)",
            'CREATE COLLATION TWINMARK FROM "C"',
        ),
        leaves=("SELECT count(*) FROM pg_operator WHERE oprname = '<@@@>'", 1),
    ),
    HolderAction(
        "create text search objects",
        (
            "CREATE TEXT SEARCH DICTIONARY TWINMARK (TEMPLATE = simple)",
            "CREATE TEXT SEARCH CONFIGURATION TWINMARK (COPY = english)",
        ),
        leaves=("SELECT count(*) FROM pg_ts_config WHERE cfgname = 'twinmark'", 1),
    ),
    HolderAction(
        "create extended statistics",
        ("CREATE STATISTICS TWINMARK ON k, v FROM seed", "UPDATE seed SET v = 'TWINMARK'", "ANALYZE seed"),
        leaves=("SELECT n_distinct IS NOT NULL FROM pg_stats_ext WHERE statistics_name = 'twinmark'", True),
    ),
    HolderAction(
        "create a partition with rows",
        (
            "CREATE TABLE TWINMARK PARTITION OF event DEFAULT",
            "INSERT INTO event VALUES (1, '2030-01-01', 'TWINMARK')",
        ),
        leaves=_relation("TWINMARK", "r"),
    ),
    HolderAction(
        "create a child table", "CREATE TABLE TWINMARK () INHERITS (plain)", leaves=_relation("TWINMARK", "r")
    ),
    HolderAction(
        "comment on objects",
        ("COMMENT ON TABLE seed IS 'TWINMARK'", "COMMENT ON INDEX seed_k IS 'TWINMARK'"),
        leaves=("SELECT obj_description('seed_k'::regclass)", "TWINMARK"),
    ),
    HolderAction(
        "comment on the schema",
        "DO $$ BEGIN EXECUTE format('COMMENT ON SCHEMA %I IS ''TWINMARK''', current_schema()); END $$",
        leaves=("SELECT obj_description(current_schema()::regnamespace)", "TWINMARK"),
    ),
    HolderAction(
        "grant rights to all",
        (
            "GRANT ALL ON seed, ticket TO PUBLIC",
            "GRANT UPDATE (v) ON seed TO PUBLIC",
            "DO $$ BEGIN EXECUTE format('GRANT CREATE ON SCHEMA %I TO PUBLIC', current_schema()); END $$",
        ),
        leaves=(
            "SELECT attacl::text LIKE '{=w/%' FROM pg_attribute WHERE attrelid = 'seed'::regclass AND attname = 'v'",
            True,
        ),
    ),
    HolderAction(
        "revoke one's own rights",
        "REVOKE ALL ON item FROM CURRENT_USER",
        leaves=("SELECT has_table_privilege('item', 'INSERT')", False),
    ),
    HolderAction(
        "set default privileges",
        "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC",
        leaves=("SELECT count(*) FROM pg_default_acl", 1),
    ),
    HolderAction(
        "set the role's settings",
        (
            "ALTER ROLE CURRENT_USER SET application_name = 'TWINMARK'",
            "ALTER ROLE CURRENT_USER SET enable_seqscan = off",
        ),
        leaves=("SELECT current_setting('application_name')", "TWINMARK"),
    ),
    HolderAction(
        "set and comment on the database",
        _database_setting,
        leaves=("SELECT current_setting('application_name')", "TWINMARK"),
        isolations=DATABASE_ONLY,
    ),
    HolderAction(
        "create a large object",
        _large_object,
        leaves=("SELECT count(*) FROM pg_largeobject_metadata", 1),
    ),
    HolderAction(
        "create a publication",
        "CREATE PUBLICATION TWINMARK FOR TABLE seed, orders",
        leaves=("SELECT count(*) FROM pg_publication WHERE pubname = 'twinmark'", 1),
        isolations=DATABASE_ONLY,
    ),
    HolderAction(
        "create a schema with a table, and put it into the search path",
        (
            "CREATE SCHEMA TWINMARK",
            "CREATE TABLE TWINMARK.item AS SELECT 1 AS id, 'TWINMARK' AS name",
            "ALTER ROLE CURRENT_USER SET search_path = TWINMARK, public",
        ),
        leaves=("SELECT name FROM item", "TWINMARK"),
        isolations=DATABASE_ONLY,
    ),
    HolderAction(
        "create a trusted extension",
        _trusted_extension,
        leaves=("SELECT count(*) FROM pg_namespace WHERE nspname = 'twinmark'", 1),
        isolations=DATABASE_ONLY,
    ),
    HolderAction(
        "create an event trigger, which is refused",
        (
            "CREATE FUNCTION TWINMARK() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'",
            "CREATE EVENT TRIGGER TWINMARK ON ddl_command_end EXECUTE FUNCTION TWINMARK()",
        ),
        leaves=("SELECT count(*) FROM pg_proc WHERE proname = 'twinmark'", 1),
        refused=psycopg.errors.InsufficientPrivilege,
    ),
    HolderAction(
        "leave a prepared transaction",
        _prepared_transaction,
        leaves=(
            "SELECT count(*) FROM pg_prepared_xacts WHERE gid LIKE 'TWINMARK%' AND database = current_database()",
            1,
        ),
    ),
    HolderAction("drop a table", "DROP TABLE hashed", leaves=("SELECT to_regclass('hashed') IS NULL", True)),
    HolderAction(
        "drop a column",
        "ALTER TABLE customer DROP city CASCADE",
        leaves=("SELECT to_regclass('city_count') IS NULL", True),
    ),
    HolderAction(
        "drop an index and a primary key",
        ("DROP INDEX measured_kind", "ALTER TABLE place DROP CONSTRAINT place_pkey"),
        leaves=("SELECT to_regclass('place_pkey') IS NULL", True),
    ),
    HolderAction(
        "drop a foreign key",
        "ALTER TABLE orders DROP CONSTRAINT orders_customer_id_fkey",
        leaves=(
            "SELECT count(*) FROM pg_constraint WHERE conrelid = 'orders'::regclass AND contype = 'f'",
            0,
        ),
    ),
    HolderAction(
        "drop a function and its triggers",
        "DROP FUNCTION note_change CASCADE",
        leaves=("SELECT count(*) FROM pg_trigger WHERE tgname = 'audited_change'", 0),
    ),
    HolderAction(
        "drop the whole schema",
        "DO $$ BEGIN EXECUTE format('DROP SCHEMA %I CASCADE', current_schema()); END $$",
        leaves=("SELECT to_regclass('item') IS NULL", True),
    ),
    HolderAction(
        "rename a table and a column",
        ("ALTER TABLE hashed RENAME TO TWINMARK", "ALTER TABLE seed RENAME v TO TWINMARK"),
        leaves=_relation("TWINMARK", "r"),
    ),
    HolderAction(
        "change a column's type",
        "ALTER TABLE seed ALTER k TYPE text USING 'TWINMARK ' || k",
        leaves=("SELECT pg_typeof(k)::text FROM seed LIMIT 1", "text"),
    ),
    HolderAction(
        "detach a partition",
        "ALTER TABLE event DETACH PARTITION event_2025",
        leaves=("SELECT relispartition FROM pg_class WHERE oid = 'event_2025'::regclass", False),
    ),
    HolderAction(
        "disable a trigger",
        "ALTER TABLE audited DISABLE TRIGGER audited_change",
        leaves=("SELECT tgenabled::text FROM pg_trigger WHERE tgname = 'audited_change'", "D"),
    ),
    HolderAction(
        "replace the trigger function",
        """
        CREATE OR REPLACE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO audit_entry (text) VALUES ('TWINMARK'); RETURN new; END $$
        """,
        leaves=("SELECT prosrc LIKE '%TWINMARK%' FROM pg_proc WHERE proname = 'note_change'", True),
    ),
    HolderAction(
        "keep storage parameters and a statistics target",
        (
            "ALTER TABLE seed SET (fillfactor = 50, autovacuum_enabled = off)",
            "ALTER TABLE seed ALTER v SET STATISTICS 500",
            "ALTER TABLE seed ALTER v SET (n_distinct = 7)",
        ),
        leaves=(
            "SELECT attstattarget FROM pg_attribute WHERE attrelid = 'seed'::regclass AND attname = 'v'",
            500,
        ),
    ),
    HolderAction(
        "keep a table unlogged and its replica identity full",
        ("ALTER TABLE place SET UNLOGGED", "ALTER TABLE customer REPLICA IDENTITY FULL"),
        leaves=("SELECT relpersistence::text FROM pg_class WHERE oid = 'place'::regclass", "u"),
    ),
    HolderAction(
        "create a virtual column and a constraint that is not enforced",
        (
            "ALTER TABLE orders ADD TWINMARK text GENERATED ALWAYS AS ('TWINMARK' || id) VIRTUAL",
            "ALTER TABLE orders ADD CONSTRAINT TWINMARK CHECK (total < 0) NOT ENFORCED",
        ),
        leaves=("SELECT conenforced FROM pg_constraint WHERE conname = 'twinmark'", False),
        minimum_version=18,
    ),
    HolderAction(
        "grant the right to maintain a table",
        "GRANT MAINTAIN ON seed TO PUBLIC",
        leaves=(
            "SELECT array_to_string(relacl, ',') LIKE '%=m/%' FROM pg_class WHERE oid = 'seed'::regclass",
            True,
        ),
        minimum_version=17,
    ),
)
