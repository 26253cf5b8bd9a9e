"""Values that no probe compares, with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

LEFT_OUT: Final[Mapping[str, str]] = {
    "oids and relfilenode": "identifiers. Two clones have different ones, and a table that is emptied or rewritten gets"
    " another file",
    "the number in pg_attver": "Debian's PostgreSQL 15.20 gives one to each new column (attoptions). Two fresh schemas have"
    " different ones. The option itself is compared",
    "xmin, xmax, txid_current, pg_current_snapshot": "ids of transactions grow with all work of the server."
    " order.system_columns counts different ones",
    "xact_commit, xact_rollback, blks_*, tup_* of pg_stat_database": "they count the connections and catalog reads of"
    " everything in the database, also of the service, and only pg_stat_reset by a superuser takes them back",
    "sessions and *_time of pg_stat_database": "they grow with each connection, also of the service",
    "stats_reset of pg_stat_database": "it is empty in a clone, and set wherever other counters were taken back",
    "parallel_workers_* of pg_stat_database": "monotonic, and set by any large query of the service",
    "counters of system catalogs": "every connection reads the catalogs, and each holder's statements write them",
    "relpages and reltuples of system catalogs": "autovacuum changes them in a clone, too. sizes.catalogs has a bound",
    "order of rows of system catalogs": "a clone's catalogs are written when its objects get their owner. The places of the"
    " new rows depend on autovacuum and on other sessions' snapshots, so two fresh clones differ now and then",
    "temporary schemas in a shared database": "PostgreSQL numbers them by session, and keeps them for all leases",
    "pg_stat_io, pg_stat_wal, pg_stat_bgwriter, pg_stat_checkpointer, pg_stat_archiver, pg_stat_slru": "counters of the"
    " whole server, which the work of all databases changes",
    "pg_notification_queue_usage": "one queue for all databases",
    "dirtied and written pages in EXPLAIN": "the first reader of a page writes hint bits, and checkpoints come at any time",
    "cache hits against reads": "the cache is shared by all databases. plans.buffers has their sum",
    "durations": "time is never equal",
    "rolvaliduntil": "the end of the lease. catalogs.role tells if there is one",
    "pg_stat_statements.calls": "the service's and the pool's own statements count, too",
    "pg_authid, pg_statistic, pg_shadow, pg_hba_file_rules, pg_file_settings": "the login may not read them."
    " privileges.system_catalogs shows that",
    "files and pages on disk": "the login has no function for them (pageinspect, pg_visibility and pg_read_file need a"
    " superuser). plans.heap_fetches shows the visibility map",
    "pg_replication_origin": "shared by all databases, and an ordinary login cannot create one",
    "pg_tablespace_size": "it counts all databases",
}
