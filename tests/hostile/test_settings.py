"""No setting that a holder can leave on a database harms the service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final
from uuid import uuid4

import psycopg
import pytest

from freshdb_service.lifecycle import Isolation
from freshdb_service.postgres import Server, ServerOptions
from tests.hostile.leftovers import change_every_setting
from tests.integration.postgres.conftest import managed
from tests.integration.postgres.stage import build_template, pg_dump, pool_of
from tests.servers import Servers, wanted_majors

HARMLESS: Final = {
    "speed and memory of a statement": """
        backend_flush_after commit_siblings constraint_exclusion cpu_index_tuple_cost cpu_operator_cost cpu_tuple_cost
        cursor_tuple_fraction debug_parallel_query effective_cache_size effective_io_concurrency enable_async_append
        enable_bitmapscan enable_distinct_reordering enable_gathermerge enable_group_by_reordering enable_hashagg
        enable_hashjoin enable_incremental_sort enable_indexonlyscan enable_indexscan enable_material enable_memoize
        enable_mergejoin enable_nestloop enable_parallel_append enable_parallel_hash enable_partition_pruning
        enable_partitionwise_aggregate enable_partitionwise_join enable_presorted_aggregate enable_self_join_elimination
        enable_seqscan enable_sort enable_tidscan force_parallel_mode from_collapse_limit geqo_effort geqo_generations
        geqo_pool_size geqo_seed geqo_selection_bias geqo_threshold hash_mem_multiplier io_combine_limit io_max_combine_limit
        jit_above_cost jit_expressions jit_inline_above_cost jit_optimize_above_cost jit_tuple_deforming join_collapse_limit
        logical_decoding_work_mem maintenance_io_concurrency maintenance_work_mem max_parallel_maintenance_workers
        max_parallel_workers max_parallel_workers_per_gather min_parallel_index_scan_size min_parallel_table_scan_size
        parallel_leader_participation parallel_setup_cost parallel_tuple_cost plan_cache_mode random_page_cost
        recursive_worktable_factor seq_page_cost synchronize_seqscans temp_buffers wal_skip_threshold work_mem
        vacuum_buffer_usage_limit file_copy_method""",
    "format of values as text: resets set their own value, and no other work depends on it": """
        bytea_output DateStyle default_text_search_config extra_float_digits IntervalStyle lc_monetary lc_numeric lc_time
        lc_messages TimeZone timezone_abbreviations xmlbinary""",
    "details of VACUUM and ANALYZE, which do not disable them": """
        vacuum_cost_limit vacuum_cost_page_dirty vacuum_cost_page_hit vacuum_cost_page_miss vacuum_failsafe_age
        vacuum_freeze_min_age vacuum_freeze_table_age vacuum_max_eager_freeze_failure_rate vacuum_multixact_failsafe_age
        vacuum_multixact_freeze_min_age vacuum_multixact_freeze_table_age vacuum_truncate default_statistics_target
        gin_pending_list_limit""",
    "content of the server's log": """
        debug_pretty_print debug_print_parse debug_print_plan debug_print_rewritten escape_string_warning
        log_parameter_max_length_on_error md5_password_warnings trace_notify trace_sort""",
    "statements that the service never runs in the database": """
        backslash_quote createrole_self_grant debug_logical_replication_streaming default_table_access_method
        default_toast_compression gin_fuzzy_search_limit icu_validation_level logical_replication_mode password_encryption
        restrict_nonsystem_relation_kind scram_iterations temp_tablespaces operator_precedence_warning""",
    "time until a dead client is detected, and until a commit is on disk": """
        client_connection_check_interval stats_fetch_consistency synchronous_commit tcp_keepalives_count tcp_keepalives_idle
        tcp_keepalives_interval wal_sender_timeout""",
}  # fmt: skip


@pytest.fixture(params=wanted_majors(), ids=lambda major: f"pg{major}")
async def server(request: pytest.FixtureRequest, servers: Servers) -> AsyncIterator[Server]:
    try:
        dsn = servers.postgres(request.param).dsn
    except LookupError as error:
        pytest.skip(str(error))
    async with managed(dsn, ServerOptions(pg_dump=pg_dump(), command_timeout_seconds=30)) as opened:
        yield opened


async def test_settings_of_a_database_do_not_harm_the_service(server: Server) -> None:
    known = {name for names in HARMLESS.values() for name in names.split()}
    pool = await pool_of(
        server, Isolation.DATABASE, await build_template(server, "CREATE TABLE t (a integer)")
    )
    database_id = uuid4()
    login = await pool.provision(database_id)
    with psycopg.connect(
        host=server.host,
        port=server.port,
        user=login.user,
        password=login.password,
        dbname=login.database,
        autocommit=True,
    ) as holder:
        changed = change_every_setting(holder, f"ALTER DATABASE {login.database}")
    assert len(changed) > 100
    async with server.inside(login.database) as connection:
        effective = {
            row["name"]
            for row in await connection.fetch("SELECT name FROM pg_settings WHERE source = 'database'")
        }
    assert effective <= known
    assert effective < changed
    assert (await pool.reset(database_id, 2)).path == "rebuild"
