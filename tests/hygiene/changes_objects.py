"""Changes of all other objects: types, functions, operators, text search, schemas, extensions, comments, large objects."""

from __future__ import annotations

from typing import Final

from tests.hygiene.change import (
    Change,
    Holder,
    by_function,
    change,
    database_owner_only,
    for_versions,
    left_open,
    refused,
    without_leftovers,
)

UNDEFINED_OBJECT: Final = "42704"

TYPES: Final = (
    change("an enum value added", "ALTER TYPE mood ADD VALUE 'late' BEFORE 'done'"),
    change("an enum value added, and used",
           "ALTER TYPE mood ADD VALUE 'late'", "UPDATE person SET mood = 'late' WHERE id = 1"),
    change("an enum value renamed", "ALTER TYPE mood RENAME VALUE 'calm' TO 'quiet'"),
    change("an enum created", "CREATE TYPE colour AS ENUM ('red')"),
    change("a type dropped, with its columns", "DROP TYPE mood CASCADE"),
    change("a composite type created", "CREATE TYPE place AS (x float8, y float8)"),
    change("a composite type's attribute added", "ALTER TYPE money_amount ADD ATTRIBUTE at date CASCADE"),
    change("a range type created", "CREATE TYPE span AS RANGE (subtype = float8)"),
    change("a type renamed", "ALTER TYPE mood RENAME TO spirits"),
    change("a domain created", "CREATE DOMAIN short AS text CHECK (length(VALUE) < 5)"),
    change("a domain's constraint dropped", "ALTER DOMAIN email DROP CONSTRAINT email_check"),
    change("a domain's constraint added",
           "ALTER DOMAIN email ADD CONSTRAINT not_long CHECK (length(VALUE) < 500) NOT VALID"),
    change("a domain given a default", "ALTER DOMAIN email SET DEFAULT 'a@b'"),
    refused("a base type created", "CREATE TYPE shell"),
)  # fmt: skip

FUNCTIONS: Final = (
    change("a function created", "CREATE FUNCTION mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'"),
    change("a function's body replaced",
           "CREATE OR REPLACE FUNCTION count_people() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT 42::bigint'"),
    change("a trigger's function replaced",
           "CREATE OR REPLACE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"),
    change("a function overloaded",
           "CREATE FUNCTION count_people(text) RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint'"),
    change("a function dropped", "DROP FUNCTION count_people()"),
    change("a function dropped, with what needs it", "DROP FUNCTION is_positive(bigint) CASCADE"),
    change("a function renamed", "ALTER FUNCTION count_people() RENAME TO people"),
    change("a function's volatility altered", "ALTER FUNCTION is_positive(bigint) STABLE"),
    change("a function's security altered", "ALTER FUNCTION count_people() SECURITY INVOKER"),
    change("a function's cost altered", "ALTER FUNCTION count_people() COST 7"),
    change("a function's setting altered", "ALTER FUNCTION count_people() SET work_mem = '1MB'"),
    change("a procedure created", "CREATE PROCEDURE mine() LANGUAGE sql AS 'SELECT 1'"),
    change("a procedure dropped", "DROP PROCEDURE promote(bigint)"),
    change("an aggregate created", "CREATE AGGREGATE mine (integer) (SFUNC = int4pl, STYPE = integer)"),
    change("an aggregate dropped", "DROP AGGREGATE product_of (float8)"),
    without_leftovers("an anonymous block", "DO 'BEGIN END'"),
    refused("a function made leakproof", "ALTER FUNCTION count_people() LEAKPROOF"),
    refused("a function in C created", "CREATE FUNCTION mine() RETURNS integer LANGUAGE c AS 'mine'"),
)  # fmt: skip

OPERATORS: Final = (
    change("an operator created", "CREATE OPERATOR !!! (RIGHTARG = integer, FUNCTION = int4abs)"),
    change("an operator dropped", "DROP OPERATOR === (integer, integer)"),
    change("an operator's estimate altered", "ALTER OPERATOR === (integer, integer) SET (RESTRICT = eqsel)"),
    change("a cast created", "CREATE CAST (text AS mood) WITH INOUT AS ASSIGNMENT"),
    change("a collation created", 'CREATE COLLATION mine FROM "C"'),
    change("a collation renamed", "ALTER COLLATION plain RENAME TO simple"),
    change("a conversion created", "CREATE CONVERSION mine FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8"),
    refused("an operator class created",
           "CREATE OPERATOR CLASS mine FOR TYPE integer USING btree"
            " AS OPERATOR 3 =, FUNCTION 1 btint4cmp(integer, integer)"),
    refused("a cast between types of PostgreSQL's created", "CREATE CAST (text AS integer) WITH INOUT", code="42501"),
    refused("a transform created",
           "CREATE TRANSFORM FOR mood LANGUAGE sql (FROM SQL WITH FUNCTION prsd_lextype(internal))"),
    refused("an access method created", "CREATE ACCESS METHOD mine TYPE TABLE HANDLER heap_tableam_handler"),
    refused("a language created", "CREATE LANGUAGE mine HANDLER plpgsql_call_handler"),
)  # fmt: skip

TEXT_SEARCH: Final = (
    change("a text search configuration created", "CREATE TEXT SEARCH CONFIGURATION mine (COPY = english)"),
    change("a text search configuration's mapping altered",
           "ALTER TEXT SEARCH CONFIGURATION words ALTER MAPPING FOR asciiword WITH english_stem"),
    change("a text search configuration's mapping dropped",
           "ALTER TEXT SEARCH CONFIGURATION words DROP MAPPING FOR word"),
    change("a text search configuration dropped", "DROP TEXT SEARCH CONFIGURATION words"),
    change("a text search dictionary created", "CREATE TEXT SEARCH DICTIONARY mine (TEMPLATE = simple)"),
    change("a text search dictionary's options altered", "ALTER TEXT SEARCH DICTIONARY short_words (ACCEPT = true)"),
    refused("a text search template created", "CREATE TEXT SEARCH TEMPLATE mine (LEXIZE = dsimple_lexize)"),
)  # fmt: skip

STATISTICS: Final = (
    change("a statistics object created", 'CREATE STATISTICS mine ON key, "select" FROM preference'),
    change("a statistics object's target altered", "ALTER STATISTICS person_stats SET STATISTICS 9"),
    change("a statistics object dropped", "DROP STATISTICS person_stats"),
)  # fmt: skip

BEYOND_SCHEMA: Final = (
    database_owner_only("a schema created, and a table in it",
           "CREATE SCHEMA mine; CREATE TABLE mine.t (a integer); INSERT INTO mine.t VALUES (1)"),
    database_owner_only("the schema renamed", "ALTER SCHEMA @schema@ RENAME TO mine"),
    database_owner_only("a table moved to another schema", "CREATE SCHEMA mine; ALTER TABLE note SET SCHEMA mine"),
    change("the schema dropped with everything in it", "DROP SCHEMA @schema@ CASCADE"),
    database_owner_only("the schema dropped, and created empty",
           "BEGIN; DROP SCHEMA @schema@ CASCADE; CREATE SCHEMA @schema@; COMMIT"),
    database_owner_only("a publication created", "CREATE PUBLICATION mine FOR TABLE note"),
    for_versions(15, 15, database_owner_only("an extension created", "CREATE EXTENSION hstore")),
    for_versions(15, 15, database_owner_only("an extension of the template dropped", "DROP EXTENSION citext")),
    for_versions(15, 15, refused("an extension moved", "CREATE SCHEMA mine", "ALTER EXTENSION citext SET SCHEMA mine")),
    for_versions(15, 15, refused("an untrusted extension created", "CREATE EXTENSION pg_stat_statements")),
    for_versions(16, 99, refused("the untrusted extension vector created", "CREATE EXTENSION vector")),
    refused("the language of triggers dropped", "DROP EXTENSION plpgsql"),
    refused("a publication of all tables created", "CREATE PUBLICATION mine FOR ALL TABLES"),
    refused("an event trigger created",
            "CREATE FUNCTION mine() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'",
            "CREATE EVENT TRIGGER mine ON ddl_command_end EXECUTE FUNCTION mine()"),
    refused("a foreign data wrapper created", "CREATE FOREIGN DATA WRAPPER mine"),
    refused("a foreign server created", "CREATE SERVER mine FOREIGN DATA WRAPPER none", code=UNDEFINED_OBJECT),
    refused("a subscription created", "CREATE SUBSCRIPTION mine CONNECTION '' PUBLICATION p WITH (connect = false)"),
)  # fmt: skip

COMMENTS: Final = (
    change("a comment on a table", "COMMENT ON TABLE note IS 'mine'"),
    change("a comment on a table changed", "COMMENT ON TABLE person IS 'mine'"),
    change("a comment on a column dropped", "COMMENT ON COLUMN person.mail IS NULL"),
    change("a comment on a function dropped", "COMMENT ON FUNCTION count_people() IS NULL"),
    change("comments on everything else",
           "COMMENT ON TYPE mood IS 'mine'", "COMMENT ON DOMAIN email IS 'mine'", "COMMENT ON SEQUENCE ticket IS 'mine'",
           "COMMENT ON VIEW calm_people IS 'mine'", "COMMENT ON INDEX product_lower IS 'mine'",
           "COMMENT ON TRIGGER person_changed ON person IS 'mine'",
           "COMMENT ON RULE forget ON kept IS 'mine'", "COMMENT ON POLICY own ON secret IS 'mine'",
           "COMMENT ON COLLATION plain IS 'mine'",
           "COMMENT ON CONSTRAINT person_team ON person IS 'mine'", "COMMENT ON STATISTICS person_stats IS 'mine'",
           "COMMENT ON OPERATOR === (integer, integer) IS 'mine'",
           "COMMENT ON TEXT SEARCH CONFIGURATION words IS 'mine'"),
    change("a comment on the schema", "COMMENT ON SCHEMA @schema@ IS 'mine'"),
)  # fmt: skip


def _large_object_left_open(holder: Holder) -> None:
    connection = holder.connect()
    holder.run_in(connection, "BEGIN", "SELECT lowrite(lo_open(lo_create(0), 131072), 'unfinished')")


LARGE_OBJECTS: Final = (
    change("a large object", "SELECT lo_from_bytea(0, 'left')"),
    change("a large object with a chosen OID",
           "SELECT lo_from_bytea(4711, repeat('x', 100000)::bytea)", "GRANT SELECT ON LARGE OBJECT 4711 TO PUBLIC"),
    change("an empty large object, and a comment on it", "SELECT lo_create(4712)",
           "COMMENT ON LARGE OBJECT 4712 IS 'mine'"),
    without_leftovers("a large object created and unlinked", "SELECT lo_unlink(lo_from_bytea(4713, 'x'))"),
    by_function(_large_object_left_open, "a large object still open at release"),
)  # fmt: skip

_ = (for_versions, left_open)
OBJECTS: Final[tuple[Change, ...]] = (
    *(*TYPES, *FUNCTIONS, *OPERATORS, *TEXT_SEARCH, *STATISTICS),
    *(*BEYOND_SCHEMA, *COMMENTS, *LARGE_OBJECTS),
)
