"""Actions that maintain tables or gather the planner's statistics, and the server's own maintenance during a lease."""

from __future__ import annotations

from typing import Final

from tests.twins.holder_actions.action import (
    DATABASE_ONLY,
    Ending,
    Holder,
    HolderAction,
    created_and_dropped,
    larger_than,
    newer_than_the_template,
    rewritten,
    statistic,
)


def _reindex_database(holder: Holder) -> None:
    connection = holder.connect()
    connection.execute(f'REINDEX DATABASE "{connection.info.dbname}"')


ACTIONS: Final = (
    HolderAction(
        "vacuum a table that an earlier lease updated",
        "VACUUM seed",
        leaves=("SELECT relallvisible > 0 FROM pg_class WHERE oid = 'seed'::regclass", True),
        earlier="UPDATE seed SET v = v || ' TWINMARK'",
    ),
    HolderAction(
        "update every row and vacuum in each of 3 leases",
        ("UPDATE measured SET kind = kind || ' TWINMARK'", "VACUUM measured"),
        leaves=larger_than(57344, "measured"),
        rounds=3,
    ),
    HolderAction(
        "fill and empty a table, and vacuum it",
        (
            "INSERT INTO empty_one (label) SELECT 'TWINMARK' FROM generate_series(1, 5000)",
            "DELETE FROM empty_one",
            "VACUUM empty_one",
        ),
        leaves=("SELECT vacuum_count FROM pg_stat_user_tables WHERE relname = 'empty_one'", 1),
    ),
    HolderAction(
        "vacuum all tables",
        "VACUUM",
        leaves=("SELECT relallvisible > 0 FROM pg_class WHERE oid = 'plain'::regclass", True),
    ),
    HolderAction(
        "vacuum a table without its indexes",
        ("DELETE FROM place WHERE id <= 25", "VACUUM (INDEX_CLEANUP OFF) place"),
        leaves=("SELECT vacuum_count FROM pg_stat_user_tables WHERE relname = 'place'", 1),
    ),
    HolderAction(
        "rewrite a table (VACUUM FULL) that an earlier lease updated",
        "VACUUM FULL customer",
        leaves=rewritten("customer"),
        earlier="UPDATE customer SET city = 'TWINMARK' WHERE id % 2 = 0",
    ),
    HolderAction(
        "freeze a table",
        "VACUUM (FREEZE) measured",
        leaves=(
            """
            SELECT age(relfrozenxid) < (SELECT min(age(xmin)) FROM measured)
            FROM pg_class WHERE oid = 'measured'::regclass
            """,
            True,
        ),
    ),
    HolderAction(
        "vacuum and analyze a partitioned table",
        (
            "INSERT INTO event SELECT n, '2025-06-01', 'TWINMARK' FROM generate_series(1, 500) AS n",
            "VACUUM ANALYZE event",
        ),
        leaves=statistic("most_common_vals::text", "event_2025", "body", "{TWINMARK}"),
    ),
    HolderAction(
        "delete half of a partition and vacuum it",
        ("DELETE FROM event_2024 WHERE id % 2 = 0", "VACUUM event_2024"),
        leaves=("SELECT relallvisible FROM pg_class WHERE oid = 'event_2024'::regclass", 2),
    ),
    HolderAction(
        "rewrite a partition (VACUUM FULL)", "VACUUM FULL event_2024", leaves=rewritten("event_2024")
    ),
    HolderAction(
        "analyze one table",
        "ANALYZE seed",
        leaves=("SELECT reltuples::int FROM pg_class WHERE oid = 'seed'::regclass", 200),
    ),
    HolderAction(
        "analyze one column",
        "ANALYZE seed (k)",
        leaves=("SELECT string_agg(attname, ' ') FROM pg_stats WHERE tablename = 'seed'", "k"),
    ),
    HolderAction(
        "analyze all tables",
        "ANALYZE",
        leaves=(
            """
            SELECT count(*) FROM pg_class
            WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p', 'm') AND reltuples < 0
            """,
            0,
        ),
    ),
    HolderAction(
        "analyze a table in a transaction that is rolled back",
        (
            "INSERT INTO plain SELECT n, 'TWINMARK' FROM generate_series(1, 300) AS n",
            "ANALYZE plain",
            "ANALYZE item",
        ),
        leaves=("SELECT reltuples::int FROM pg_class WHERE oid = 'item'::regclass", 1),
        ending=Ending.ROLLBACK,
    ),
    HolderAction(
        "analyze values and empty the table",
        (
            "INSERT INTO empty_measured SELECT n, 'TWINMARK' FROM generate_series(1, 300) AS n",
            "ANALYZE empty_measured",
            "DELETE FROM empty_measured",
        ),
        leaves=statistic("most_common_vals::text", "empty_measured", "word", "{TWINMARK}"),
    ),
    HolderAction(
        "analyze values in a hash-indexed table and truncate it",
        (
            "INSERT INTO hashed SELECT 'TWINMARK ' || n % 3 FROM generate_series(1, 300) AS n",
            "ANALYZE hashed",
            "TRUNCATE hashed",
        ),
        leaves=statistic("most_common_vals::text LIKE '%TWINMARK 1%'", "hashed", "word", True),
    ),
    HolderAction(
        "analyze values of an expression index",
        ("UPDATE measured SET kind = 'TWINMARK' WHERE id <= 500", "ANALYZE measured"),
        leaves=statistic("most_common_vals::text LIKE '{twinmark,%'", "measured_lower", "lower", True),
    ),
    HolderAction(
        "analyze values of extended statistics",
        ("UPDATE measured SET kind = 'TWINMARK', amount = 77", "ANALYZE measured"),
        leaves=(
            "SELECT most_common_vals[1][1] FROM pg_stats_ext WHERE statistics_name = 'measured_extended'",
            "TWINMARK",
        ),
    ),
    HolderAction(
        "analyze an analyzed table after a change of all values",
        ("UPDATE orders SET total = 77", "ANALYZE orders"),
        leaves=statistic("most_common_vals::text", "orders", "total", "{77.00}"),
    ),
    HolderAction(
        "analyze with another statistics target and set it back",
        (
            "ALTER TABLE seed ALTER v SET STATISTICS 1000",
            "ANALYZE seed",
            "ALTER TABLE seed ALTER v SET STATISTICS -1",
        ),
        leaves=statistic("cardinality(histogram_bounds::text::text[])", "seed", "v", 200),
    ),
    HolderAction(
        "analyze with another target of extended statistics and set it back",
        (
            "ALTER STATISTICS measured_extended SET STATISTICS 3",
            "ANALYZE measured",
            "ALTER STATISTICS measured_extended SET STATISTICS -1",
        ),
        leaves=(
            "SELECT cardinality(most_common_freqs) FROM pg_stats_ext WHERE statistics_name = 'measured_extended'",
            3,
        ),
    ),
    HolderAction(
        "create extended statistics, analyze and drop them",
        (
            "CREATE STATISTICS TWINMARK ON k, v FROM seed",
            "ANALYZE seed",
            "DROP STATISTICS TWINMARK",
        ),
        leaves=created_and_dropped("pg_statistic_ext"),
    ),
    HolderAction(
        "write the planner's statistics of a table (pg_restore_relation_stats)",
        """
        SELECT pg_restore_relation_stats('schemaname', current_schema()::text, 'relname', 'item',
            'relpages', 1000, 'reltuples', 100000::real, 'relallvisible', 1000)
        """,
        leaves=("SELECT relpages FROM pg_class WHERE oid = 'item'::regclass", 1000),
        minimum_version=18,
    ),
    HolderAction(
        "write the planner's statistics of a column (pg_restore_attribute_stats)",
        """
        SELECT pg_restore_attribute_stats('schemaname', current_schema()::text, 'relname', 'plain', 'attname', 'word',
            'inherited', false, 'null_frac', 0.1::real, 'avg_width', 8, 'n_distinct', 1::real,
            'most_common_vals', '{TWINMARK}', 'most_common_freqs', '{0.9}'::real[])
        """,
        leaves=statistic("most_common_vals::text", "plain", "word", "{TWINMARK}"),
        minimum_version=18,
    ),
    HolderAction(
        "clear the planner's statistics",
        (
            "SELECT pg_clear_relation_stats(current_schema()::text, 'orders')",
            "SELECT pg_clear_attribute_stats(current_schema()::text, 'orders', 'total', false)",
        ),
        leaves=("SELECT reltuples::int FROM pg_class WHERE oid = 'orders'::regclass", -1),
        minimum_version=18,
    ),
    HolderAction(
        "cluster a table",
        ("CLUSTER seed USING seed_k", "CLUSTER"),
        leaves=("SELECT indisclustered FROM pg_index WHERE indexrelid = 'seed_k'::regclass", True),
    ),
    HolderAction(
        "cluster a table and forget its order",
        ("CLUSTER orders USING orders_customer", "ALTER TABLE orders SET WITHOUT CLUSTER"),
        leaves=rewritten("orders"),
    ),
    HolderAction("reindex a table", "REINDEX TABLE seed", leaves=rewritten("seed_pkey")),
    HolderAction(
        "reindex a partitioned table and a materialized view",
        ("REINDEX TABLE event", "REINDEX TABLE document"),
        leaves=rewritten("document_body"),
    ),
    HolderAction(
        "reindex concurrently",
        "REINDEX INDEX CONCURRENTLY measured_kind",
        leaves=newer_than_the_template("'measured_kind'::regclass"),
    ),
    HolderAction(
        "reindex the database", _reindex_database, leaves=rewritten("ranged_n"), isolations=DATABASE_ONLY
    ),
    HolderAction(
        "refresh a materialized view after an update",
        ("UPDATE customer SET city = 'TWINMARK' WHERE id <= 50", "REFRESH MATERIALIZED VIEW city_count"),
        leaves=("SELECT customers FROM city_count WHERE city = 'TWINMARK'", 50),
    ),
    HolderAction(
        "refresh a materialized view without a change",
        "REFRESH MATERIALIZED VIEW city_count",
        leaves=("SELECT pg_relation_filenode('city_count') > pg_relation_filenode('plain')", True),
    ),
    HolderAction(
        "refresh a materialized view concurrently",
        (
            "CREATE UNIQUE INDEX TWINMARK ON city_count (city)",
            "UPDATE customer SET city = 'TWINMARK' WHERE id <= 10",
            "REFRESH MATERIALIZED VIEW CONCURRENTLY city_count",
            "DROP INDEX TWINMARK",
        ),
        leaves=("SELECT customers FROM city_count WHERE city = 'TWINMARK'", 10),
    ),
    HolderAction(
        "empty a materialized view",
        "REFRESH MATERIALIZED VIEW city_count WITH NO DATA",
        leaves=("SELECT relispopulated FROM pg_class WHERE oid = 'city_count'::regclass", False),
    ),
    HolderAction(
        "remove the summary of a BRIN index",
        (
            "INSERT INTO ranged SELECT generate_series(1, 50000)",
            "SELECT brin_summarize_new_values('ranged_n')",
            "SELECT brin_desummarize_range('ranged_n', 0)",
        ),
        leaves=("SELECT brin_summarize_range('ranged_n', 0)", 1),
    ),
    HolderAction(
        "flush the pending list of a GIN index",
        (
            'INSERT INTO document SELECT n, \'{"by": "TWINMARK"}\' FROM generate_series(11, 30) AS n',
            "SELECT gin_clean_pending_list('document_body')",
        ),
        leaves=("SELECT gin_clean_pending_list('document_body')", 0),
    ),
    HolderAction(
        "update every row, and be vacuumed and analyzed by the server",
        "UPDATE orders SET total = 77",
        leaves=statistic("most_common_vals::text", "orders", "total", "{77.00}"),
        needs=("VACUUM (ANALYZE)",),
    ),
    HolderAction(
        "update every row in each of 3 leases, and be vacuumed by the server",
        "UPDATE audited SET state = 'TWINMARK'",
        leaves=("SELECT relallvisible FROM pg_class WHERE oid = 'audited'::regclass", 1),
        rounds=3,
        needs=("VACUUM (ANALYZE)",),
    ),
    HolderAction(
        "read only, and be frozen and checkpointed by the server",
        "SELECT count(*) FROM seed",
        leaves=("SELECT relallvisible > 0 FROM pg_class WHERE oid = 'seed'::regclass", True),
        needs=("VACUUM (FREEZE)", "CHECKPOINT"),
    ),
)
