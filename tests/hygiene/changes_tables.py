"""Changes of tables and their columns, constraints, indexes, partitions, triggers, rules and policies."""

from __future__ import annotations

from typing import Final

import psycopg
import pytest

from tests.hygiene.change import (
    Change,
    Holder,
    by_function,
    change,
    for_versions,
    left_open,
    refused,
    without_leftovers,
)


def _invalid_index(holder: Holder) -> None:
    with pytest.raises(psycopg.errors.UniqueViolation):
        holder.run("CREATE UNIQUE INDEX CONCURRENTLY broken ON pair (a)")


TABLES: Final = (
    change("a table created", "CREATE TABLE mine (id serial PRIMARY KEY, body text)"),
    change("a table created and filled", "CREATE TABLE mine AS SELECT * FROM person"),
    change("a table created, and dropped again",
           "SELECT nextval('untouched')", "CREATE TABLE mine (id serial)", "DROP TABLE mine"),
    without_leftovers("a table created in a transaction that is rolled back",
           "BEGIN; CREATE TABLE mine (id serial); ROLLBACK"),
    change("a table of a composite type created", "CREATE TABLE mine OF money_amount"),
    change("a table created like another", "CREATE TABLE mine (LIKE person INCLUDING ALL)"),
    change("an unlogged table created", "CREATE UNLOGGED TABLE mine (a integer)"),
    change("an unseeded table dropped", "DROP TABLE note"),
    change("a seeded table dropped, with what needs it", "DROP TABLE person CASCADE"),
    change("every table dropped",
           "DROP TABLE person, team, category, product, pair, preference, big, event, parent, child, scratch, secret,"
           " purchase, purchase_line, audit, note, booking, no_columns, kept, guarded, hooked, loop_a, loop_b CASCADE"),
    change("an unseeded table dropped, and created as it was, but for its comment",
           "DROP TABLE no_columns", "CREATE TABLE no_columns ()", "COMMENT ON TABLE no_columns IS 'again'"),
    change("a seeded table dropped, and created as it was, but empty",
           "DROP TABLE pair", "CREATE TABLE pair (a integer, b text)"),
    change("a seeded table replaced by another table",
           "CREATE TABLE other AS SELECT * FROM pair WHERE a = 1", "DROP TABLE pair", "ALTER TABLE other RENAME TO pair"),
    change("a table renamed", "ALTER TABLE note RENAME TO notes"),
    change("two tables' names exchanged",
           "ALTER TABLE kept RENAME TO spare; ALTER TABLE guarded RENAME TO kept; ALTER TABLE spare RENAME TO guarded"),
    change("a table's storage parameter set", "ALTER TABLE note SET (fillfactor = 50)"),
    change("a table's storage parameter reset", "ALTER TABLE person RESET (fillfactor)"),
    change("a table's storage parameter for long values set", "ALTER TABLE note SET (toast.autovacuum_enabled = false)"),
    change("a table made unlogged", "ALTER TABLE note SET UNLOGGED"),
    change("a table made logged", "ALTER TABLE scratch SET LOGGED"),
    change("a table's replica identity changed", "ALTER TABLE person REPLICA IDENTITY DEFAULT"),
    change("a table no longer clustered on its index", "ALTER TABLE person SET WITHOUT CLUSTER"),
    change("a table clustered", "CLUSTER product USING product_pkey"),
    change("an inheritance ended", "ALTER TABLE child NO INHERIT parent"),
    change("an inheritance begun", "CREATE TABLE heir (b integer) INHERITS (parent)"),
    without_leftovers("a table rewritten", "VACUUM FULL person"),
    without_leftovers("a table clustered as it was before", "CLUSTER person"),
    without_leftovers("tables vacuumed and analyzed", "VACUUM ANALYZE person, pair"),
    without_leftovers("a table's access method set to its old value", "ALTER TABLE note SET ACCESS METHOD heap"),
    left_open("a table dropped in a transaction still open", "BEGIN", "DROP TABLE note"),
    refused("a table's owner changed", "ALTER TABLE note OWNER TO pg_monitor"),
    refused("a column added to one of PostgreSQL's own tables", "ALTER TABLE pg_class ADD COLUMN mine text"),
)  # fmt: skip

COLUMNS: Final = (
    change("a column added", "ALTER TABLE note ADD COLUMN more text"),
    change("a column with a default added to a seeded table", "ALTER TABLE person ADD COLUMN more text DEFAULT 'x'"),
    change("a column added, and dropped again",
           "ALTER TABLE note ADD COLUMN more text", "ALTER TABLE note DROP COLUMN more"),
    change("a column dropped", "ALTER TABLE person DROP COLUMN code CASCADE"),
    change("a column dropped, and added as it was",
           "ALTER TABLE note DROP COLUMN body", "ALTER TABLE note ADD COLUMN body text"),
    change("a column renamed", "ALTER TABLE person RENAME COLUMN code TO codes"),
    change("two columns' names exchanged",
           "ALTER TABLE loop_a RENAME id TO spare; ALTER TABLE loop_a RENAME b_id TO id;"
           " ALTER TABLE loop_a RENAME spare TO b_id"),
    change("a column's type changed", "ALTER TABLE note ALTER COLUMN body TYPE varchar(100)"),
    change("a column's type changed, with its values", "ALTER TABLE big ALTER COLUMN n TYPE text USING n || 'x'"),
    change("a column's type changed and changed back",
           "ALTER TABLE pair ALTER COLUMN a TYPE smallint", "UPDATE pair SET a = 3 WHERE a = 2",
           "ALTER TABLE pair ALTER COLUMN a TYPE integer"),
    change("a column's default set", "ALTER TABLE note ALTER COLUMN body SET DEFAULT 'x'"),
    change("a column's default changed", "ALTER TABLE person ALTER COLUMN document SET DEFAULT '[]'"),
    change("a column's default dropped", "ALTER TABLE purchase ALTER COLUMN number DROP DEFAULT"),
    change("a column made not null", "ALTER TABLE note ALTER COLUMN body SET NOT NULL"),
    change("a column made nullable", "ALTER TABLE team ALTER COLUMN name DROP NOT NULL"),
    change("a column's statistics target set", "ALTER TABLE note ALTER COLUMN body SET STATISTICS 7"),
    change("a column's storage set", "ALTER TABLE note ALTER COLUMN body SET STORAGE EXTERNAL"),
    change("a column's compression set", "ALTER TABLE note ALTER COLUMN body SET COMPRESSION pglz"),
    change("a column's option set", "ALTER TABLE note ALTER COLUMN body SET (n_distinct = 5)"),
    change("a column no longer generated", "ALTER TABLE person ALTER COLUMN lower_mail DROP EXPRESSION"),
    for_versions(18, 99, change("a virtual generated column added",
           "ALTER TABLE note ADD COLUMN size integer GENERATED ALWAYS AS (length(body))")),
    for_versions(18, 99, change("a generated column's expression changed",
           "ALTER TABLE person ALTER COLUMN lower_mail SET EXPRESSION AS (upper(mail))")),
)  # fmt: skip

CONSTRAINTS: Final = (
    change("a check added", "ALTER TABLE note ADD CHECK (body <> '')"),
    change("a check added without validation", "ALTER TABLE product ADD CONSTRAINT later CHECK (price > 100) NOT VALID"),
    change("a check validated", "ALTER TABLE product DROP CONSTRAINT known_weight",
           "ALTER TABLE product ADD CONSTRAINT known_weight CHECK (weight < 100) NOT VALID",
           "ALTER TABLE product VALIDATE CONSTRAINT known_weight"),
    change("a check dropped", "ALTER TABLE person DROP CONSTRAINT salary_is_positive"),
    change("a unique constraint added", "ALTER TABLE note ADD UNIQUE (body)"),
    change("a unique constraint dropped", "ALTER TABLE person DROP CONSTRAINT person_mail_key"),
    change("a primary key dropped", "ALTER TABLE note DROP CONSTRAINT note_pkey"),
    change("a primary key added", "ALTER TABLE audit ADD PRIMARY KEY (id)"),
    change("a foreign key added", "ALTER TABLE booking ADD FOREIGN KEY (room) REFERENCES team (id)"),
    change("a foreign key dropped", "ALTER TABLE person DROP CONSTRAINT person_team"),
    change("a foreign key made deferrable",
           "ALTER TABLE person ALTER CONSTRAINT person_team DEFERRABLE INITIALLY DEFERRED"),
    change("an exclusion dropped", "ALTER TABLE booking DROP CONSTRAINT booking_during_excl"),
    change("an exclusion added", "ALTER TABLE booking ADD EXCLUDE USING gist (during WITH -|-)"),
    change("a constraint renamed", "ALTER TABLE note RENAME CONSTRAINT note_pkey TO note_key"),
    change("a constraint created from an index",
           "CREATE UNIQUE INDEX taken ON note (body)", "ALTER TABLE note ADD UNIQUE USING INDEX taken"),
    for_versions(18, 99, change("a constraint that is not enforced",
           "ALTER TABLE note ADD CONSTRAINT loose CHECK (body <> '') NOT ENFORCED")),
    for_versions(18, 99, change("a foreign key no longer enforced",
           "ALTER TABLE person ALTER CONSTRAINT person_team NOT ENFORCED")),
    for_versions(18, 99, change("not null added without validation",
           "ALTER TABLE note ADD CONSTRAINT there NOT NULL body NOT VALID")),
)  # fmt: skip

INDEXES: Final = (
    change("an index created", "CREATE INDEX mine ON note (body)"),
    change("an index created concurrently", "CREATE INDEX CONCURRENTLY mine ON note (lower(body)) WHERE body <> ''"),
    change("an index created on partitions", "CREATE INDEX mine ON event (kind)"),
    change("an index created on the parent partition only", "CREATE INDEX mine ON ONLY event (kind)"),
    by_function(_invalid_index, "an index left invalid"),
    change("an index dropped", "DROP INDEX person_partial"),
    change("an index dropped concurrently", "DROP INDEX CONCURRENTLY product_lower"),
    change("an index renamed", "ALTER INDEX product_lower RENAME TO product_upper"),
    change("an index's parameter set", "ALTER INDEX product_lower SET (fillfactor = 50)"),
    change("an index's statistics target set", "ALTER INDEX product_lower ALTER COLUMN 1 SET STATISTICS 9"),
    change("a unique index created that treats nulls as equal",
           "CREATE UNIQUE INDEX mine ON note (body) NULLS NOT DISTINCT"),
    without_leftovers("indexes built again", "REINDEX TABLE person"),
    without_leftovers("indexes built again concurrently", "REINDEX INDEX CONCURRENTLY product_lower"),
)  # fmt: skip

PARTITIONS: Final = (
    change("a partition created",
           "CREATE TABLE event_2026 PARTITION OF event FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')"),
    change("a partition detached", "ALTER TABLE event DETACH PARTITION event_2024"),
    change("a partition detached concurrently",
           "ALTER TABLE event DETACH PARTITION event_rest", "ALTER TABLE event DETACH PARTITION event_2024 CONCURRENTLY"),
    change("a partition attached",
           "CREATE TABLE event_new (LIKE event INCLUDING DEFAULTS)",
           "ALTER TABLE event ATTACH PARTITION event_new FOR VALUES FROM ('2027-01-01') TO ('2028-01-01')"),
    change("a partition detached, and attached with other bounds",
           "ALTER TABLE event DETACH PARTITION event_2024",
           "ALTER TABLE event ATTACH PARTITION event_2024 FOR VALUES FROM ('2023-01-01') TO ('2025-01-01')"),
    change("a partition dropped", "DROP TABLE event_2024"),
    change("the default partition dropped", "DROP TABLE event_rest"),
    change("a partitioned table created",
           "CREATE TABLE mine (a integer) PARTITION BY HASH (a)",
           "CREATE TABLE mine_0 PARTITION OF mine FOR VALUES WITH (MODULUS 2, REMAINDER 0)"),
)  # fmt: skip

TRIGGERS: Final = (
    change("a trigger created", "CREATE TRIGGER mine BEFORE DELETE ON note FOR EACH ROW EXECUTE FUNCTION refuse()"),
    change("a trigger that keeps rows from being deleted, and a row",
           "CREATE TRIGGER mine BEFORE DELETE ON note FOR EACH ROW EXECUTE FUNCTION refuse()",
           "ALTER TABLE note ENABLE ALWAYS TRIGGER mine", "INSERT INTO note (body) VALUES ('stays')"),
    change("a constraint trigger created",
           "CREATE CONSTRAINT TRIGGER mine AFTER INSERT ON note DEFERRABLE INITIALLY DEFERRED"
           " FOR EACH ROW EXECUTE FUNCTION refuse()"),
    change("a trigger dropped", "DROP TRIGGER person_changed ON person"),
    change("a trigger disabled", "ALTER TABLE person DISABLE TRIGGER person_changed"),
    change("a disabled trigger enabled", "ALTER TABLE category ENABLE TRIGGER category_changed"),
    change("a trigger always enabled", "ALTER TABLE person ENABLE ALWAYS TRIGGER person_changed"),
    change("a trigger enabled in replica sessions", "ALTER TABLE person ENABLE REPLICA TRIGGER person_changed"),
    change("every trigger of a table disabled", "ALTER TABLE product DISABLE TRIGGER USER"),
    change("a trigger renamed", "ALTER TRIGGER person_changed ON person RENAME TO person_altered"),
    change("a trigger replaced",
           "CREATE OR REPLACE TRIGGER person_changed AFTER DELETE ON person FOR EACH ROW EXECUTE FUNCTION note_change()"),
    refused("the triggers of foreign keys disabled", "ALTER TABLE person DISABLE TRIGGER ALL"),
)  # fmt: skip

RULES: Final = (
    change("a rule created", "CREATE RULE mine AS ON INSERT TO note DO INSTEAD NOTHING"),
    change("a rule dropped", "DROP RULE forget ON kept"),
    change("a rule disabled", "ALTER TABLE kept DISABLE RULE forget"),
    change("a rule replaced", "CREATE OR REPLACE RULE forget AS ON DELETE TO kept DO ALSO NOTIFY kept"),
    change("a rule renamed", "ALTER RULE forget ON kept RENAME TO remember"),
)  # fmt: skip

POLICIES: Final = (
    change("row security enabled", "ALTER TABLE note ENABLE ROW LEVEL SECURITY"),
    change("row security enabled and forced, and rows hidden",
           "INSERT INTO note (body) VALUES ('hidden')", "ALTER TABLE note ENABLE ROW LEVEL SECURITY",
           "ALTER TABLE note FORCE ROW LEVEL SECURITY"),
    change("row security disabled", "ALTER TABLE secret DISABLE ROW LEVEL SECURITY"),
    change("row security no longer forced", "ALTER TABLE secret NO FORCE ROW LEVEL SECURITY"),
    change("a policy created", "CREATE POLICY mine ON secret FOR DELETE USING (false)"),
    change("a policy altered", "ALTER POLICY own ON secret USING (owner_name = 'bob')"),
    change("a policy assigned to another role", "ALTER POLICY own ON secret TO pg_monitor"),
    change("a policy renamed", "ALTER POLICY own ON secret RENAME TO owned"),
    change("a policy dropped", "DROP POLICY builder ON secret"),
)  # fmt: skip

VIEWS: Final = (
    change("a view created", "CREATE VIEW mine AS SELECT * FROM person"),
    change("a view replaced",
           "CREATE OR REPLACE VIEW calm_people AS SELECT id, mail, mood FROM person WHERE mood = 'busy'"),
    change("a view's option set", "ALTER VIEW calm_people SET (security_barrier)"),
    change("a view's column given a default", "ALTER VIEW calm_people ALTER COLUMN mood SET DEFAULT 'calm'"),
    change("a view's column renamed", "ALTER VIEW calm_people RENAME COLUMN mail TO address"),
    change("a view dropped", "DROP VIEW calm_people"),
    change("a materialized view created", "CREATE MATERIALIZED VIEW mine AS SELECT 1 AS one"),
    change("a materialized view dropped", "DROP MATERIALIZED VIEW by_mood"),
    change("a materialized view's index dropped", "DROP INDEX by_mood_key"),
)  # fmt: skip

TABLE_KINDS: Final[tuple[Change, ...]] = (
    *(*TABLES, *COLUMNS, *CONSTRAINTS, *INDEXES, *PARTITIONS),
    *(*TRIGGERS, *RULES, *POLICIES, *VIEWS),
)
