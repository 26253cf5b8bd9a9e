"""Probes of sessions, locks, prepared transactions and settings, before the session itself does anything."""

from __future__ import annotations

from typing import Final

from tests.twins.probes.probe import Probe
from tests.twins.probes.session import APPLICATION_NAME, Query

_OTHERS: Final = f"a.application_name <> '{APPLICATION_NAME}' AND a.usesysid IS NOT NULL"
"""Sessions of users that do not belong to the observation. Those of the system, such as autovacuum, have no user."""
_HERE: Final = "a.datname = {database} AND ({own_database} OR a.usename = {role})"
_OWN: Final = "l.relation IN (SELECT oid FROM pg_class WHERE relowner = {role_oid})"
_LOCKS: Final = (
    "SELECT l.locktype, CASE WHEN l.locktype <> 'advisory' THEN l.relation::regclass END AS relation, l.mode, l.granted,"
    " l.classid, l.objid FROM pg_locks AS l LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid"
    f" WHERE l.database = (SELECT oid FROM pg_database WHERE datname = {{database}})"
    f" AND (l.pid IS NULL AND ({{own_database}} OR {_OWN}) OR {_OTHERS} AND ({_HERE} OR {_OWN}))"
)

PROBES: Final = (
    Probe(
        name="sessions.activity",
        observes="sessions of others in the database, and of the role elsewhere: none",
        run=Query(
            "SELECT a.usename, a.application_name, a.datname = {database} AS here FROM pg_stat_activity AS a"
            f" WHERE {_OTHERS} AND ({_HERE} OR a.usename = {{role}})",
            bag=True,
        ),
    ),
    Probe(
        name="sessions.locks",
        observes="locks of others and of prepared transactions in the database",
        run=Query(f"{_LOCKS} AND l.locktype NOT IN ('advisory', 'virtualxid')", bag=True),
    ),
    Probe(
        name="sessions.advisory_locks",
        observes="advisory locks in the database: none",
        run=Query(f"{_LOCKS} AND l.locktype = 'advisory'", bag=True),
        must_be_empty=True,
    ),
    Probe(
        name="sessions.prepared_transactions",
        observes="prepared transactions of the database or of the role: none",
        run=Query(
            "SELECT gid, owner FROM pg_prepared_xacts WHERE owner = {role} OR database = {database} AND {own_database}",
            bag=True,
        ),
        must_be_empty=True,
    ),
    Probe(
        name="sessions.prepared_statements",
        observes="prepared statements of a new session: none",
        run=Query("SELECT name, statement FROM pg_prepared_statements", bag=True),
        must_be_empty=True,
    ),
    Probe(
        name="sessions.cursors",
        observes="open cursors of a new session: none",
        run=Query("SELECT name, statement FROM pg_cursors WHERE name <> ''", bag=True),
        must_be_empty=True,
    ),
    Probe(
        name="sessions.channels",
        observes="channels to which a new session listens: none",
        run=Query("SELECT pg_listening_channels() AS channel", bag=True),
        must_be_empty=True,
    ),
    Probe(
        name="sessions.settings",
        observes="all settings with their sources and reset values. The port is left out",
        run=Query(
            "SELECT name, setting, unit, source, reset_val, pending_restart FROM pg_settings WHERE name <> 'port'",
            key=1,
        ),
    ),
    Probe(
        name="sessions.changed_settings",
        observes="settings that differ from what the server was built with",
        run=Query(
            "SELECT name, setting, source, boot_val, reset_val FROM pg_settings"
            " WHERE setting IS DISTINCT FROM boot_val AND name <> 'port'",
            key=1,
        ),
    ),
    Probe(
        name="sessions.names",
        observes="names of users, schemas and the database as functions return them",
        run=Query(
            "SELECT current_user, session_user, current_database() AS database, current_schema() AS schema,"
            " current_schemas(true) AS schemas, current_setting('role') AS role,"
            " current_setting('is_superuser') AS is_superuser, current_setting('search_path') AS search_path,"
            " pg_my_temp_schema()::text AS temporary_schema"
        ),
    ),
    Probe(
        name="sessions.transaction",
        observes="isolation, access mode and id of a new transaction",
        run=Query(
            "SELECT current_setting('transaction_isolation') AS isolation,"
            " current_setting('default_transaction_read_only') AS read_only,"
            " current_setting('transaction_deferrable') AS deferrable, txid_current_if_assigned() AS id,"
            " pg_is_in_recovery() AS recovery, current_setting('session_replication_role') AS replication_role"
        ),
    ),
)
