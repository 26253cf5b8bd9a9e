"""Differences of objects and rights."""

from __future__ import annotations

from typing import Final

from tests.twins.seeds.seed import seed

_FOREIGN: Final = (
    "CREATE FOREIGN DATA WRAPPER extra",
    "CREATE SERVER extra FOREIGN DATA WRAPPER extra",
    "GRANT USAGE ON FOREIGN SERVER extra TO {role}",
    "SET ROLE {role}",
    "CREATE FOREIGN TABLE away (n integer) SERVER extra",
)
OBJECTS: Final = (
    seed("extra table", "information_schema.tables", "CREATE TABLE extra (n integer)"),
    seed("extra grant", "information_schema.role_table_grants", "GRANT SELECT ON item TO PUBLIC"),
    seed(
        "column created again",
        "information_schema.columns",
        "ALTER TABLE seed DROP v",
        "ALTER TABLE seed ADD v text",
    ),
    seed(
        "dropped column",
        "definitions.columns",
        "ALTER TABLE seed ADD extra text",
        "ALTER TABLE seed DROP extra",
    ),
    seed("comment", "definitions.comments", "COMMENT ON COLUMN seed.v IS 'a comment'"),
    seed("default value", "definitions.defaults", "ALTER TABLE item ALTER name SET DEFAULT 'x'"),
    seed(
        "constraint",
        "definitions.constraints",
        "ALTER TABLE plain ADD CONSTRAINT extra CHECK (n > 0) NOT VALID",
    ),
    seed("clustered index", "definitions.indexes", "ALTER TABLE seed CLUSTER ON seed_k"),
    seed("disabled trigger", "definitions.triggers", "ALTER TABLE audited DISABLE TRIGGER audited_change"),
    seed("option of a table", "definitions.relations", "ALTER TABLE seed SET (fillfactor = 50)"),
    seed(
        "setting of a function", "definitions.functions", "ALTER FUNCTION note_change() SET work_mem = '1MB'"
    ),
    seed("enumeration", "definitions.enums_and_ranges", "CREATE TYPE mood AS ENUM ('a')"),
    seed("policy", "definitions.policies", "CREATE POLICY extra ON seed USING (true)"),
    seed("operator", "definitions.rarer_objects", "CREATE COLLATION extra (locale = 'C')"),
    seed("sequence of another step", "definitions.sequences", "ALTER SEQUENCE ticket INCREMENT 2"),
    seed("schema", "catalogs.schemas", "CREATE SCHEMA extra"),
    seed(
        "schema of temporary tables", "catalogs.temporary_schemas", "CREATE TEMPORARY TABLE gone (n integer)"
    ),
    seed("number of catalog rows", "catalogs.row_counts", "CREATE TYPE extra AS (n integer)"),
    seed("setting of the role", "catalogs.settings", "ALTER ROLE CURRENT_USER SET work_mem = '5MB'"),
    seed(
        "setting of the database",
        "sessions.settings",
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET work_mem = 5000', current_database()); END $$",
    ),
    seed("limit of the role", "catalogs.role", "ALTER ROLE {role} CONNECTION LIMIT 90", superuser=True),
    seed("membership", "catalogs.memberships", "GRANT pg_read_all_data TO {role}", superuser=True),
    seed("owned large object", "catalogs.owned_objects", "SELECT lo_create(0)"),
    seed("large object", "catalogs.large_objects", "SELECT lo_create(0)"),
    seed("publication", "catalogs.publications", "CREATE PUBLICATION extra FOR TABLE seed"),
    seed(
        "default rights",
        "catalogs.default_privileges",
        "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC",
    ),
    seed(
        "event trigger",
        "catalogs.event_triggers",
        "CREATE FUNCTION extra() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'",
        "CREATE EVENT TRIGGER extra ON sql_drop EXECUTE FUNCTION extra()",
        superuser=True,
    ),
    seed(
        "foreign data wrapper", "catalogs.foreign_data", "CREATE FOREIGN DATA WRAPPER extra", superuser=True
    ),
    seed(
        "comment on the database",
        "catalogs.shared_comments",
        "DO $$ BEGIN EXECUTE format('COMMENT ON DATABASE %I IS ''a comment''', current_database()); END $$",
    ),
    seed(
        "limit of the database",
        "catalogs.database",
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I CONNECTION LIMIT 90', current_database()); END $$",
    ),
    seed(
        "table named after the role", "catalogs.named_after_lease", "CREATE TABLE copy_of_{role} (n integer)"
    ),
    seed("unique constraint", "information_schema.table_constraints", "ALTER TABLE seed ADD UNIQUE (v)"),
    seed("column of a key", "information_schema.key_column_usage", "ALTER TABLE seed ADD UNIQUE (v)"),
    seed(
        "column of a constraint",
        "information_schema.constraint_column_usage",
        "ALTER TABLE seed ADD UNIQUE (v)",
    ),
    seed(
        "foreign key",
        "information_schema.referential_constraints",
        "ALTER TABLE plain ADD FOREIGN KEY (n) REFERENCES seed",
    ),
    seed("check", "information_schema.check_constraints", "ALTER TABLE plain ADD CHECK (n > 0)"),
    seed("dropped trigger", "information_schema.triggers", "DROP TRIGGER audited_change ON audited"),
    seed(
        "trigger of a column",
        "information_schema.triggered_update_columns",
        "CREATE TRIGGER extra AFTER UPDATE OF n ON plain FOR EACH ROW EXECUTE FUNCTION note_change()",
    ),
    seed(
        "view",
        "information_schema.views",
        "CREATE OR REPLACE VIEW large_order AS SELECT * FROM orders WHERE total > 5",
    ),
    seed(
        "column of a view", "information_schema.view_column_usage", "CREATE VIEW extra AS SELECT n FROM plain"
    ),
    seed("sequence", "information_schema.sequences", "CREATE SEQUENCE extra"),
    seed(
        "routine",
        "information_schema.routines",
        "CREATE FUNCTION extra(n int) RETURNS int LANGUAGE sql AS 'SELECT 1'",
    ),
    seed(
        "parameter",
        "information_schema.parameters",
        "CREATE FUNCTION extra(n int) RETURNS int LANGUAGE sql AS 'SELECT 1'",
    ),
    seed(
        "right to a table", "information_schema.table_privileges", "REVOKE DELETE ON seed FROM CURRENT_USER"
    ),
    seed("right to a column", "information_schema.column_privileges", "GRANT UPDATE (v) ON seed TO PUBLIC"),
    seed(
        "right to a routine",
        "information_schema.routine_privileges",
        "REVOKE EXECUTE ON FUNCTION note_change() FROM PUBLIC",
    ),
    seed(
        "right to a routine of the role",
        "information_schema.role_routine_grants",
        "REVOKE EXECUTE ON FUNCTION note_change() FROM CURRENT_USER",
    ),
    seed("right to a type", "information_schema.usage_privileges", "CREATE DOMAIN extra AS text"),
    seed(
        "right to a type of the role",
        "information_schema.role_usage_grants",
        "GRANT USAGE ON SEQUENCE ticket TO PUBLIC",
    ),
    seed("domain", "information_schema.domains", "CREATE DOMAIN extra AS text CHECK (value <> '')"),
    seed(
        "check of a domain",
        "information_schema.domain_constraints",
        "CREATE DOMAIN extra AS text CHECK (value <> '')",
    ),
    seed("composite type", "information_schema.user_defined_types", "CREATE TYPE extra AS (n integer)"),
    seed("array", "information_schema.element_types", "ALTER TABLE plain ADD extra text[]"),
    seed("own schema", "information_schema.schemata", "CREATE SCHEMA extra"),
    seed("role of the role", "information_schema.roles", "GRANT pg_monitor TO {role}", superuser=True),
    seed("foreign server", "information_schema.foreign_data", *_FOREIGN, superuser=True),
    seed("foreign table", "information_schema.foreign_tables", *_FOREIGN, superuser=True),
    seed(
        "changed view",
        "definitions.views",
        "CREATE OR REPLACE VIEW large_order AS SELECT * FROM orders WHERE total > 5",
    ),
    seed("rule", "definitions.rules", "CREATE RULE extra AS ON INSERT TO plain DO ALSO NOTHING"),
    seed("statistics object", "definitions.statistics", "CREATE STATISTICS extra ON id, k FROM seed"),
    seed("partition", "definitions.inheritance", "ALTER TABLE event DETACH PARTITION event_2025"),
    seed("type", "definitions.types", "CREATE TYPE extra AS (n integer)"),
    seed("dependency", "definitions.dependencies", "ALTER SEQUENCE ticket OWNED BY plain.n"),
    seed("cast", "catalogs.languages", "CREATE CAST (item AS seed) WITH INOUT"),
    seed(
        "temporary table",
        "catalogs.temporary_relations",
        "CREATE TEMPORARY TABLE open_one (n integer)",
        held=True,
    ),
)
RIGHTS: Final = (
    seed("revoked right", "privileges.tables", "REVOKE DELETE ON seed FROM CURRENT_USER"),
    seed("right on a column", "privileges.columns", "GRANT UPDATE (v) ON seed TO PUBLIC"),
    seed("right on a sequence", "privileges.sequences", "GRANT USAGE ON SEQUENCE ticket TO PUBLIC"),
    seed("right on a schema", "privileges.schemas", "GRANT CREATE ON SCHEMA public TO PUBLIC"),
    seed(
        "right on the database",
        "privileges.database",
        "DO $$ BEGIN EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database()); END $$",
    ),
    seed(
        "right on a setting",
        "privileges.parameters",
        "GRANT SET ON PARAMETER log_duration TO {role}",
        superuser=True,
    ),
    seed("predefined role", "privileges.predefined_roles", "GRANT pg_monitor TO {role}", superuser=True),
    seed(
        "right to a function", "privileges.functions", "REVOKE EXECUTE ON FUNCTION note_change() FROM PUBLIC"
    ),
    seed("right to a type", "privileges.types", "REVOKE USAGE ON TYPE item FROM PUBLIC"),
    seed(
        "right to a language",
        "privileges.languages",
        "REVOKE USAGE ON LANGUAGE plpgsql FROM PUBLIC",
        superuser=True,
    ),
    seed(
        "right to a tablespace",
        "privileges.tablespaces",
        "GRANT CREATE ON TABLESPACE pg_default TO {role}",
        superuser=True,
    ),
    seed(
        "tablespace",
        "catalogs.tablespaces",
        "GRANT CREATE ON TABLESPACE pg_default TO {role}",
        superuser=True,
    ),
    seed(
        "right to a system function",
        "privileges.system_catalogs",
        "GRANT EXECUTE ON FUNCTION pg_stat_reset() TO PUBLIC",
        superuser=True,
    ),
    seed(
        "initial right",
        "catalogs.initial_privileges",
        "DELETE FROM pg_init_privs WHERE objoid = 'pg_roles'::regclass",
        "DELETE FROM pg_init_privs WHERE ctid = (SELECT min(ctid) FROM pg_init_privs)",
        superuser=True,
    ),
)
