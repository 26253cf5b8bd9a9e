"""Extensions in use: what a template does with each, what a holder does, and what the next holder must find."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tests.hygiene.change import Isolation


@dataclass(frozen=True, slots=True)
class Use:
    """One extension in use.

    Attributes:
        name: name of the extension.
        build: SQL of the template.
        hold: statements of the holder, each run by itself.
        check: query of the next holder.
        value: its result.
        extensions: ``extensions`` of the template, or empty for the name alone.
        in_database: further statements of a holder with isolation ``database``.
        forbidden: statements that PostgreSQL must refuse to a holder with isolation ``database``.
        forbidden_in_schema: the same for isolation ``schema``.
        refusal: part of the reason why isolation ``schema`` is refused, or empty if it works.
        danger: part of the reason why no template may have the extension, or empty.
        path: path of the reset with isolation ``database``, or empty for any.
        package: Debian's package of the extension.
        major: version of PostgreSQL.
    """

    name: str
    build: str
    hold: tuple[str, ...]
    check: str
    value: object
    extensions: tuple[str | dict[str, str], ...] = ()
    in_database: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()
    forbidden_in_schema: tuple[str, ...] = ()
    refusal: str = ""
    danger: str = ""
    path: str = ""
    package: str = "postgresql-15"
    major: int = 15

    def __str__(self) -> str:
        """Return the name, for the test's name."""
        return self.name

    @property
    def forms(self) -> tuple[str | dict[str, str], ...]:
        """The ``extensions`` of the template."""
        return self.extensions or (self.name,)

    def forbidden_in(self, isolation: Isolation) -> tuple[str, ...]:
        """Statements that PostgreSQL must refuse."""
        return self.forbidden if isolation == "database" else self.forbidden_in_schema


USES: Final = (
    # The first five run in the default suite.
    Use(
        "vector",
        "CREATE TABLE item (id integer PRIMARY KEY, v vector(3));"
        "INSERT INTO item SELECT i, ARRAY[i, 1, 2]::vector FROM generate_series(1, 50) i;"
        "CREATE INDEX item_v ON item USING hnsw (v vector_l2_ops)",
        ("INSERT INTO item VALUES (99, '[9,9,9]')", "DELETE FROM item WHERE id = 7"),
        "SELECT string_agg(id::text, ' ') FROM (SELECT id FROM item ORDER BY v <-> '[7,1,2]' LIMIT 3) nearest",
        "7 6 8",
        major=18,
        package="",
    ),
    Use(
        "pgcrypto",
        "CREATE TABLE secret (hash text); INSERT INTO secret VALUES (extensions.crypt('first', '$1$saltsalt'))",
        ("UPDATE secret SET hash = extensions.crypt('other', extensions.gen_salt('md5'))",),
        "SELECT hash = extensions.crypt('first', hash) FROM secret",
        True,
        extensions=({"name": "pgcrypto", "schema": "extensions"},),
        forbidden_in_schema=("CREATE TABLE extensions.mine ()",),
    ),
    Use(
        "hstore",
        "CREATE TABLE doc (h hstore); INSERT INTO doc VALUES ('a=>1'); CREATE INDEX doc_h ON doc USING gin (h)",
        ("UPDATE doc SET h = h || 'b=>2'", "INSERT INTO doc VALUES ('c=>3')"),
        "SELECT h::text || (SELECT extversion FROM pg_extension WHERE extname = 'hstore') FROM doc",
        '"a"=>"1"1.7',
        extensions=({"name": "hstore", "version": "1.7"},),
    ),
    Use(
        "pg_trgm",
        "CREATE TABLE word (w text); INSERT INTO word SELECT 'word' || i FROM generate_series(1, 200) i;"
        "CREATE INDEX word_w ON word USING gin (w gin_trgm_ops)",
        ("INSERT INTO word VALUES ('needle')", "DELETE FROM word WHERE w LIKE '%ord7%'"),
        "SELECT count(*) FROM word WHERE w LIKE '%needle%' OR w LIKE '%ord7%'",
        11,
    ),
    Use(
        "postgres_fdw",
        "CREATE SERVER other FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '1', dbname 'none');"
        "CREATE USER MAPPING FOR CURRENT_USER SERVER other OPTIONS (user 'reader', password 'first');"
        "CREATE FOREIGN TABLE far (a integer) SERVER other",
        (
            "ALTER USER MAPPING FOR CURRENT_USER SERVER other OPTIONS (SET password 'mine')",
            "CREATE SERVER mine FOREIGN DATA WRAPPER postgres_fdw",
        ),
        "SELECT string_agg(srvname || umoptions::text, ' ') FROM pg_user_mappings WHERE usename = current_user",
        "other{user=reader,password=first}",
        refusal="the foreign server other belongs to a whole database",
    ),
    # More of PostgreSQL's own.
    Use(
        "citext",
        "CREATE TABLE account (mail citext UNIQUE); INSERT INTO account VALUES ('A@example.com')",
        ("INSERT INTO account VALUES ('b@example.com')",),
        "SELECT count(*) FROM account WHERE mail IN ('a@EXAMPLE.com', 'b@example.com')",
        1,
    ),
    Use(
        "ltree",
        "CREATE TABLE node (path ltree); INSERT INTO node VALUES ('top.a'), ('top.b');"
        "CREATE INDEX node_path ON node USING gist (path)",
        ("UPDATE node SET path = 'top.a.deep' WHERE path = 'top.a'",),
        "SELECT string_agg(path::text, ' ' ORDER BY path) FROM node WHERE path <@ 'top'",
        "top.a top.b",
    ),
    Use(
        "btree_gist",
        "CREATE TABLE booking (room integer, hours int4range, EXCLUDE USING gist (room WITH =, hours WITH &&));"
        "INSERT INTO booking VALUES (1, '[8,10)')",
        ("INSERT INTO booking VALUES (1, '[10,12)')",),
        "SELECT count(*) FROM booking",
        1,
    ),
    Use(
        "tablefunc",
        "CREATE TABLE fact (k text, a text, v integer); INSERT INTO fact VALUES ('x', 'a', 1), ('x', 'b', 2)",
        ("UPDATE fact SET v = v + 10",),
        "SELECT a + b FROM crosstab('SELECT k, a, v FROM fact ORDER BY 1, 2') AS t (k text, a integer, b integer)",
        3,
    ),
    Use(
        "earthdistance",
        "CREATE TABLE city (at earth); INSERT INTO city VALUES (ll_to_earth(52.5, 13.4))",
        ("INSERT INTO city VALUES (ll_to_earth(48.9, 2.4))",),
        "SELECT count(*) FROM city",
        1,
    ),
    Use(
        "pg_stat_statements",
        "CREATE TABLE t (a integer)",
        ("SELECT 'secret' AS word",),
        "SELECT count(*) FROM pg_stat_statements WHERE query LIKE 'SELECT $1 AS word%'",
        0,
        forbidden=("SELECT pg_stat_statements_reset()",),
    ),
    # Packages of their own.
    Use(
        "postgis",
        "CREATE TABLE place (id integer PRIMARY KEY, at gis.geometry(Point, 4326));"
        "INSERT INTO place VALUES (1, gis.ST_SetSRID(gis.ST_MakePoint(1, 2), 4326));"
        "CREATE INDEX place_at ON place USING gist (at)",
        ("INSERT INTO place VALUES (2, gis.ST_SetSRID(gis.ST_MakePoint(3, 4), 4326))",),
        "SELECT (SELECT count(*) FROM place) + (SELECT count(*) FROM gis.spatial_ref_sys WHERE srid > 990000)",
        1,
        extensions=({"name": "postgis", "schema": "gis"},),
        in_database=("INSERT INTO gis.spatial_ref_sys VALUES (990001, 'mine', 1, '', '')",),
        forbidden=(
            "CREATE TRIGGER mine BEFORE INSERT ON gis.spatial_ref_sys EXECUTE FUNCTION tsvector_update_trigger()",
        ),
        forbidden_in_schema=("DELETE FROM gis.spatial_ref_sys",),
        path="delete",
        package="postgresql-15-postgis-3",
    ),
    Use(
        "postgis with rows of the template",
        "INSERT INTO gis.spatial_ref_sys VALUES (990001, 'ours', 1, '', ''); CREATE TABLE t (a integer)",
        ("UPDATE gis.spatial_ref_sys SET auth_name = 'mine' WHERE srid = 990001",),
        "SELECT auth_name FROM gis.spatial_ref_sys WHERE srid = 990001",
        "ours",
        extensions=({"name": "postgis", "schema": "gis"},),
        refusal="the template's rows in gis.spatial_ref_sys",
        package="postgresql-15-postgis-3",
    ),
    Use(
        "postgis_topology",
        "SELECT topology.CreateTopology('streets', 4326);"
        "SELECT topology.AddNode('streets', ST_SetSRID(ST_MakePoint(0, 0), 4326))",
        (
            "SELECT topology.AddNode('streets', ST_SetSRID(ST_MakePoint(1, 1), 4326))",
            "SELECT topology.CreateTopology('mine', 4326)",
        ),
        "SELECT current_setting('search_path') || (SELECT count(*) FROM streets.node) "
        "|| (SELECT count(*) FROM topology.topology)",
        '"$user", public, topology11',
        refusal="the schema streets",
        package="postgresql-15-postgis-3",
    ),
    Use(
        "postgis_tiger_geocoder",
        "INSERT INTO tiger.geocode_settings (name, setting) VALUES ('debug_normalize_address', 'false')",
        (
            "UPDATE tiger.geocode_settings SET setting = 'true'",
            "UPDATE tiger.state_lookup SET name = 'mine' WHERE st_code = 1",
        ),
        "SELECT current_setting('search_path') || ' ' || setting "
        "|| (normalize_address('1 Main Street, Boston, MA 02109')).zip "
        "FROM tiger.geocode_settings WHERE name = 'debug_normalize_address'",
        '"$user", public, topology, tiger false02109',
        extensions=("postgis_topology", "postgis_tiger_geocoder"),
        refusal="search_path",
        package="postgresql-15-postgis-3",
    ),
    Use(
        "pg_partman",
        "CREATE TABLE public.event (id bigint, at timestamptz NOT NULL) PARTITION BY RANGE (at);"
        "SELECT partman.create_parent('public.event', 'at', 'native', 'daily');"
        "INSERT INTO event VALUES (1, now())",
        (
            "UPDATE partman.part_config SET premake = 9",
            "SELECT partman.run_maintenance()",
            "INSERT INTO event VALUES (2, now())",
        ),
        "SELECT premake + (SELECT count(*) FROM event) FROM partman.part_config",
        5,
        extensions=({"name": "pg_partman", "schema": "partman"},),
        refusal="the schema partman",
        package="postgresql-15-partman",
    ),
    Use(
        "pg_partman with rows of its configuration only",
        "INSERT INTO partman.custom_time_partitions VALUES ('public.event', 'public.event_1', '[2026-01-01,2026-02-01)')",
        (
            "UPDATE partman.custom_time_partitions SET child_table = 'public.mine'",
            "DELETE FROM partman.custom_time_partitions",
        ),
        "SELECT child_table FROM partman.custom_time_partitions",
        "public.event_1",
        extensions=({"name": "pg_partman", "schema": "partman"},),
        refusal="the template's rows in partman.custom_time_partitions",
        path="reload",
        package="postgresql-15-partman",
    ),
    Use(
        "periods",
        "SELECT 1",
        (),
        "",
        None,
        danger="is not safe to share with holders",
        package="postgresql-15-periods",
    ),
    Use(
        "pgtap",
        "CREATE TABLE t (a integer)",
        (
            "BEGIN; SELECT plan(1); SELECT has_table('t'); SELECT * FROM finish(); COMMIT",
            "INSERT INTO t VALUES (1)",
        ),
        "SELECT count(*) FROM t",
        0,
        package="postgresql-15-pgtap",
    ),
    Use(
        "orafce",
        "CREATE TABLE t (a oracle.varchar2(10)); INSERT INTO t VALUES ('first')",
        ("UPDATE t SET a = 'mine'", "SELECT dbms_output.enable()"),
        "SELECT a || oracle.to_char(7) FROM t",
        "first7",
        forbidden=(
            "SELECT dbms_pipe.create_pipe('box')",
            "SELECT dbms_pipe.receive_message('box', 0)",
            "SELECT dbms_alert.signal('a', 'b')",
            "SELECT dbms_alert.register('a')",
            "INSERT INTO utl_file.utl_file_dir VALUES ('/tmp', 'tmp')",
        ),
        refusal='the extension orafce, which cannot be moved out of "public"',
        package="postgresql-15-orafce",
    ),
    Use(
        "ip4r",
        "CREATE TABLE net (r ip4r); INSERT INTO net VALUES ('10.0.0.0/8'); CREATE INDEX net_r ON net USING gist (r)",
        ("INSERT INTO net VALUES ('192.168.0.0/16')",),
        "SELECT string_agg(r::text, ' ') FROM net",
        "10.0.0.0/8",
        package="postgresql-15-ip4r",
    ),
    Use(
        "hll",
        "CREATE TABLE visit (who extensions.hll); INSERT INTO visit VALUES (extensions.hll_empty())",
        ("UPDATE visit SET who = extensions.hll_add(who, extensions.hll_hash_integer(1))",),
        "SELECT extensions.hll_cardinality(who)::integer FROM visit",
        0,
        extensions=({"name": "hll", "schema": "extensions"},),
        package="postgresql-15-hll",
    ),
    Use(
        "rum",
        "CREATE TABLE doc (v tsvector); INSERT INTO doc VALUES ('first text');"
        "CREATE INDEX doc_v ON doc USING rum (v rum_tsvector_ops)",
        ("INSERT INTO doc VALUES ('second text')",),
        "SELECT count(*) FROM doc WHERE v @@ 'text'",
        1,
        package="postgresql-15-rum",
    ),
    Use(
        "hypopg",
        "CREATE TABLE t (a integer)",
        ("SELECT hypopg_create_index('CREATE INDEX ON t (a)'); INSERT INTO t VALUES (1)",),
        "SELECT (SELECT count(*) FROM hypopg()) + (SELECT count(*) FROM t)",
        0,
        package="postgresql-15-hypopg",
    ),
    Use(
        "pgaudit",
        "CREATE TABLE t (a integer)",
        ("CREATE TABLE mine (a integer)", "INSERT INTO t VALUES (1)"),
        "SELECT count(*) FROM t",
        0,
        refusal="the extension pgaudit, whose event triggers work for a whole database",
        package="postgresql-15-pgaudit",
    ),
)
"""At least fifteen of these work in the default ``make hygiene``."""

DEFAULT: Final = USES[:5]
