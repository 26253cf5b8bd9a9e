"""Differences of rows' places, plans, statistics, counters and sizes."""

from __future__ import annotations

from typing import Final

from tests.twins.seeds.seed import seed

_FILL: Final = "INSERT INTO {} SELECT {} FROM generate_series(1000, 6000) AS n"
_MOVED: Final = ("UPDATE item SET name = name", "VACUUM item")
_ROLLED_BACK: Final = (
    "BEGIN; INSERT INTO seed SELECT n, 1, 'dead' FROM generate_series(1000, 6000) AS n; ROLLBACK"
)
_EMPTY_ROLLED_BACK: Final = (
    "BEGIN; INSERT INTO empty_one (id, label) OVERRIDING SYSTEM VALUE"
    " SELECT n, 'dead' FROM generate_series(1, 3000) AS n; ROLLBACK"
)
_UNCOMPRESSED: Final = "(SELECT string_agg(md5(n::text), '') FROM generate_series(1, 500) AS n)"

ORDER: Final = (
    seed("free place before the only row", "order.inserted", *_MOVED),
    seed(
        "row written again",
        "order.rows",
        "DELETE FROM seed WHERE id = 1",
        "INSERT INTO seed VALUES (1, 1, 'value 1')",
    ),
    seed(
        "row written again, by LIMIT",
        "order.limits",
        "UPDATE audited SET state = state WHERE id = 1",
    ),
    seed("row at another place", "order.first_last_ctid", *_MOVED),
    seed("row at another place of many", "order.ctids", "UPDATE seed SET v = v WHERE id = 100"),
    seed("row on another page", "order.tid_range", "UPDATE seed SET v = v WHERE id = 2"),
    seed("locked row", "order.system_columns", "SELECT FROM seed WHERE id = 5 FOR UPDATE"),
    seed("updated row, aggregated", "order.aggregates", "UPDATE audited SET state = state WHERE id = 1"),
    seed("updated row, by cursor", "order.cursor", "UPDATE audited SET state = state WHERE id = 1"),
    seed("updated row, by COPY", "order.copy", "UPDATE audited SET state = state WHERE id = 1"),
    seed("updated row, in a sample", "order.sample_of_rows", "UPDATE seed SET v = v WHERE id < 50"),
    seed("updated row, first of equal keys", "order.ties_in_index", "UPDATE seed SET v = v WHERE id = 3"),
    seed("updated row, taken by a queue", "order.queue", "UPDATE audited SET state = state WHERE id = 1"),
    seed("updated row, by row_number", "order.row_number", "UPDATE audited SET state = state WHERE id = 1"),
    seed(
        "updated row, on another page of a sample",
        "order.sample_of_pages",
        "UPDATE measured SET at = at",
    ),
    seed("updated row, first after a sort", "order.ties_in_sort", "UPDATE measured SET at = at WHERE id < 6"),
    seed("updated row, joined", "order.hashed", "UPDATE orders SET total = total WHERE id < 6"),
)
PLANS: Final = (
    seed("analyzed table", "plans.equality_on_index", "ANALYZE seed"),
    seed("analyzed empty table", "plans.empty_scan", "ANALYZE empty_two"),
    seed("vacuumed empty table", "plans.after_inserts", "VACUUM empty_one"),
    seed("lost visibility map", "plans.heap_fetches", "BEGIN; UPDATE customer SET city = city; ROLLBACK"),
    seed("dead pages of an insert", "plans.buffers", _ROLLED_BACK),
    seed("dead pages in an empty table", "plans.empty_join", _EMPTY_ROLLED_BACK),
    seed("lost extended statistics", "plans.distinct_of_two_columns", "DROP STATISTICS measured_extended"),
    seed("dropped index", "plans.range_on_key", "ALTER TABLE measured DROP CONSTRAINT measured_pkey"),
    seed("analyzed partitions", "plans.all_partitions", "ANALYZE event"),
    seed("analyzed table, prepared statement", "plans.generic", "ANALYZE seed"),
    seed("fewer rows", "plans.actual_rows", "DELETE FROM seed WHERE id = 3"),
    seed("analyzed table, equality", "plans.equality_on_key", "ANALYZE seed", _ROLLED_BACK),
    seed(
        "other most common values",
        "plans.equality_with_statistics",
        "UPDATE measured SET kind = 'x'",
        "ANALYZE measured",
    ),
    seed("vacuumed table, index-only scan", "plans.index_only", "VACUUM ANALYZE seed"),
    seed(
        "grown table, BRIN",
        "plans.brin",
        "BEGIN; INSERT INTO ranged SELECT generate_series(1, 9999); ROLLBACK",
    ),
    seed("analyzed table, GiST", "plans.gist", "ANALYZE place"),
    seed("analyzed table, hash", "plans.hash", "ANALYZE hashed"),
    seed("analyzed view", "plans.materialized_view", "ANALYZE city_count"),
    seed("analyzed table of one row", "plans.one_row", "ANALYZE item"),
    seed(
        "grown table, anti-join",
        "plans.not_in",
        "BEGIN; INSERT INTO orders SELECT n, 1, 1 FROM generate_series(1000, 9999) AS n; ROLLBACK",
    ),
    seed("dropped partition", "plans.partition_at_run_time", "DROP TABLE event_2025"),
    seed("analyzed partition", "plans.one_partition", "ANALYZE event_2024"),
)
STATISTICS: Final = (
    seed("statistics of a table that had none", "statistics.columns", "ANALYZE seed"),
    seed(
        "other extended statistics",
        "statistics.extended",
        "UPDATE measured SET amount = id",
        "ANALYZE measured",
    ),
    seed("number of columns with statistics", "statistics.presence", "ANALYZE plain"),
    seed("numbers of a vacuumed table", "statistics.pages_and_rows", "VACUUM item"),
    seed("numbers of a new index", "statistics.indexes", "REINDEX TABLE seed"),
    seed("relhasindex", "statistics.flags", "CREATE INDEX temporary ON plain (n)", "DROP INDEX temporary"),
    seed(
        "relhasrules",
        "statistics.flags",
        "CREATE RULE temporary AS ON INSERT TO plain DO ALSO NOTHING",
        "DROP RULE temporary ON plain",
    ),
    seed("relhassubclass", "statistics.flags", "CREATE TABLE child () INHERITS (plain)", "DROP TABLE child"),
    seed(
        "relhastriggers",
        "statistics.flags",
        "CREATE TRIGGER temporary AFTER INSERT ON plain FOR EACH ROW EXECUTE FUNCTION note_change()",
        "DROP TRIGGER temporary ON plain",
    ),
    seed("statistics target", "statistics.targets", "ALTER TABLE seed ALTER k SET STATISTICS 50"),
    seed("order that ANALYZE sees", "statistics.after_analyze", "UPDATE seed SET v = v WHERE id < 50"),
    seed(
        "pages outside the table",
        "statistics.toast",
        "ALTER TABLE document ALTER long SET STORAGE EXTERNAL",
        f"UPDATE document SET long = {_UNCOMPRESSED}",
        "VACUUM document",
    ),
    seed(
        "statistics of an expression",
        "statistics.expressions",
        "CREATE STATISTICS e ON (n + 1) FROM ranged",
        "ANALYZE ranged",
    ),
)
COUNTERS: Final = (
    seed(
        "rows written and deleted",
        "counters.rows_written",
        "INSERT INTO plain VALUES (3)",
        "DELETE FROM plain WHERE n = 3",
    ),
    seed("dead rows", "counters.rows_alive", "BEGIN; INSERT INTO plain VALUES (3); ROLLBACK"),
    seed("rows since ANALYZE", "counters.rows_since_maintenance", "UPDATE plain SET n = n"),
    seed("scan of a table", "counters.reads", "SELECT count(*) FROM seed"),
    seed("manual ANALYZE", "counters.maintenance", "ANALYZE measured"),
    seed("scan of an index", "counters.indexes", "SELECT FROM seed WHERE id = 1"),
    seed("pages of a table", "counters.pages_of_tables", "SELECT FROM plain"),
    seed("pages of an index", "counters.pages_of_indexes", "SELECT FROM measured WHERE id = 1"),
    seed("pages of a sequence", "counters.pages_of_sequences", "SELECT FROM ticket"),
    seed(
        "pages outside the table written",
        "counters.toast",
        "ALTER TABLE document ALTER long SET STORAGE EXTERNAL",
        f"BEGIN; UPDATE document SET long = {_UNCOMPRESSED}; ROLLBACK",
    ),
    seed(
        "called function",
        "counters.functions",
        "SET track_functions = 'all'",
        "UPDATE audited SET state = state",
        superuser=True,
    ),
    seed(
        "temporary file",
        "counters.incidents",
        "SET work_mem = '64kB'",
        "SELECT count(*) FROM (SELECT n FROM generate_series(1, 100000) AS n ORDER BY n DESC OFFSET 1) AS s",
    ),
    seed("sequence set back", "sequences.states", "SELECT nextval('ticket')", "SELECT setval('ticket', 100)"),
    seed("sequence used", "sequences.view", "SELECT nextval('untouched')"),
)
SIZES: Final = (
    seed("grown table", "sizes.tables", _ROLLED_BACK),
    seed("grown index", "sizes.indexes", _ROLLED_BACK),
    seed("new visibility map", "sizes.maps", "VACUUM item"),
    seed("grown total", "sizes.totals", _ROLLED_BACK),
    seed(
        "grown table outside the table",
        "sizes.toast",
        "ALTER TABLE document ALTER long SET STORAGE EXTERNAL",
        f"BEGIN; UPDATE document SET long = {_UNCOMPRESSED}; ROLLBACK",
    ),
    seed(
        "grown database",
        "sizes.database",
        _FILL.format("scratch", "n, repeat('x', 400)"),
        "DELETE FROM scratch",
    ),
    seed(
        "values without compression",
        "sizes.values",
        "ALTER TABLE document ALTER long SET STORAGE EXTERNAL",
        "UPDATE document SET long = long || ''",
    ),
    seed(
        "grown catalogs",
        "sizes.catalogs",
        "DO $$ BEGIN FOR n IN 1..150 LOOP EXECUTE 'CREATE TABLE t' || n || ' (a int, b text, c text, d text, e text, f text,"
        " g text, h text, i text, j text, k text)'; END LOOP; END $$",
    ),
)
