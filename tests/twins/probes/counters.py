"""Probes of the cumulative statistics and of sequences. They run first, because reading a table counts."""

from __future__ import annotations

from typing import Final

from tests.twins.probes.probe import DATABASE, Probe, Within
from tests.twins.probes.session import Query, Session
from tests.twins.probes.tables import SEQUENCES, for_each
from tests.twins.probes.values import Json

_USER_TABLES: Final = "SELECT schemaname, s.* FROM pg_stat_user_tables AS s WHERE {scope schemaname}"
_KEYED: Final = _USER_TABLES.replace("s.*", "relname AS name, s.*")
_MINE: Final = (
    "datname = {database} AND relid IN (SELECT c.oid FROM pg_class AS c"
    " JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE {scope n.nspname})"
)
_PROGRESS: Final = " UNION ALL ".join(
    f"SELECT '{name}' AS work, relid::regclass::text AS relation FROM pg_stat_progress_{name} WHERE {_MINE}"
    for name in ("vacuum", "analyze", "create_index", "cluster", "copy")
)


def _sequence(session: Session, name: str) -> Json:
    return session.names.plain(session.rows(f"SELECT last_value, log_cnt, is_called FROM {name}")[0])


def _tables(*only: str, presence: tuple[str, ...] = ()) -> Query:
    return Query(_KEYED, key=2, only=frozenset((*only, *presence)), presence=frozenset(presence))


PROBES: Final = (
    Probe(
        name="counters.rows_written",
        observes="n_tup_* of all tables. Equal: a clone has none of its template's counters, and the service writes no rows",
        run=_tables("n_tup_ins", "n_tup_upd", "n_tup_del", "n_tup_hot_upd", "n_tup_newpage_upd"),
    ),
    Probe(
        name="counters.rows_alive",
        observes="n_live_tup and n_dead_tup. Equal: monitoring of bloat reads them, and autovacuum acts on them",
        run=_tables("n_live_tup", "n_dead_tup"),
    ),
    Probe(
        name="counters.rows_since_maintenance",
        observes="n_mod_since_analyze and n_ins_since_vacuum. Equal: they decide when autovacuum visits the table",
        run=_tables("n_mod_since_analyze", "n_ins_since_vacuum"),
    ),
    Probe(
        name="counters.reads",
        observes="scans of all tables and rows that they read. Equal: a test of the number of scans begins at zero."
        " Instants of the last scan (since 16): only if there was one",
        run=_tables(
            "seq_scan",
            "seq_tup_read",
            "idx_scan",
            "idx_tup_fetch",
            presence=("last_seq_scan", "last_idx_scan"),
        ),
    ),
    Probe(
        name="counters.maintenance",
        observes="counts of VACUUM and ANALYZE. Equal. Instants: only if there was one. Durations (since 18) are left out",
        run=_tables(
            "vacuum_count",
            "autovacuum_count",
            "analyze_count",
            "autoanalyze_count",
            presence=("last_vacuum", "last_autovacuum", "last_analyze", "last_autoanalyze"),
        ),
    ),
    Probe(
        name="counters.indexes",
        observes="scans of all indexes and rows that they read. Equal: advice on unused indexes reads them",
        run=Query(
            "SELECT schemaname, indexrelname AS name, s.* FROM pg_stat_user_indexes AS s WHERE {scope schemaname}",
            key=2,
            without=frozenset(("relid", "indexrelid")),
            presence=frozenset(("last_idx_scan",)),
        ),
    ),
    Probe(
        name="counters.pages_of_tables",
        observes="pg_statio_user_tables. Equal: a clone has no counters, and the service reads no pages of tables",
        run=Query(
            "SELECT schemaname, relname AS name, s.* FROM pg_statio_user_tables AS s WHERE {scope schemaname}",
            key=2,
            without=frozenset(("relid",)),
        ),
    ),
    Probe(
        name="counters.pages_of_indexes",
        observes="pg_statio_user_indexes. Equal, for the same reason",
        run=Query(
            "SELECT schemaname, indexrelname AS name, s.* FROM pg_statio_user_indexes AS s WHERE {scope schemaname}",
            key=2,
            without=frozenset(("relid", "indexrelid")),
        ),
    ),
    Probe(
        name="counters.pages_of_sequences",
        observes="pg_statio_user_sequences. Equal, for the same reason",
        run=Query(
            "SELECT schemaname, relname AS name, s.* FROM pg_statio_user_sequences AS s WHERE {scope schemaname}",
            key=2,
            without=frozenset(("relid",)),
        ),
    ),
    Probe(
        name="counters.toast",
        observes="n_* counters of the tables of values that are stored outside their table. Equal",
        run=Query(
            "SELECT c.relname AS name, s.* FROM pg_stat_all_tables AS s JOIN pg_class AS c ON c.reltoastrelid = s.relid"
            " JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE {scope n.nspname}",
            key=1,
            only=frozenset(
                ("n_tup_ins", "n_tup_upd", "n_tup_del", "n_live_tup", "n_dead_tup", "n_ins_since_vacuum")
            ),
        ),
    ),
    Probe(
        name="counters.functions",
        observes="pg_stat_user_functions. Equal calls: empty, unless track_functions is on. Durations are left out",
        run=Query(
            "SELECT schemaname, funcname, calls FROM pg_stat_user_functions WHERE {scope schemaname}",
            bag=True,
        ),
    ),
    Probe(
        name="counters.incidents",
        observes="deadlocks, conflicts, temporary files, corrupt pages and ended sessions of pg_stat_database."
        " Equal: a person who sees them looks for a fault of the own program. Monotonic counters: see LEFT_OUT",
        run=Query(
            "SELECT * FROM pg_stat_database WHERE datname = {database}",
            only=frozenset(
                (
                    "conflicts",
                    "temp_files",
                    "temp_bytes",
                    "deadlocks",
                    "checksum_failures",
                    "sessions_abandoned",
                    "sessions_fatal",
                    "sessions_killed",
                )
            ),
        ),
        isolations=DATABASE,
    ),
    Probe(
        name="counters.connections",
        observes="numbackends of the database: at most 1 more or less, because the service may have a connection",
        run=Query("SELECT numbackends FROM pg_stat_database WHERE datname = {database}"),
        tolerances={"*numbackends": Within(1)},
        isolations=DATABASE,
    ),
    Probe(
        name="counters.own_transaction",
        observes="pg_stat_xact_user_tables of a transaction that has read no table: zeros",
        run=Query(
            "SELECT relname, seq_scan, idx_scan, n_tup_ins, n_tup_upd, n_tup_del FROM pg_stat_xact_user_tables"
            " WHERE {scope schemaname}",
            key=1,
        ),
    ),
    Probe(
        name="counters.progress",
        observes="work in progress on the lease's tables (pg_stat_progress_*): none",
        run=Query(_PROGRESS, bag=True),
        must_be_empty=True,
    ),
    Probe(
        name="sequences.states",
        observes="last_value, log_cnt and is_called of every sequence. log_cnt is the number of values before the next"
        " write to the log. It is a copy of the template's",
        run=for_each(SEQUENCES, _sequence),
    ),
    Probe(
        name="sequences.view",
        observes="pg_sequences: definition and last value of every sequence",
        run=Query(
            "SELECT sequencename AS name, s.* FROM pg_sequences AS s WHERE {scope schemaname}",
            key=1,
        ),
    ),
)
