"""Changes outside the database: its attributes, the login, settings, statistics, and changes that no holder may make."""

from __future__ import annotations

from time import monotonic
from typing import Final

import psycopg

from tests.hygiene.change import (
    EVERYWHERE,
    IN_SCHEMA,
    NOWHERE,
    Change,
    Holder,
    change,
    database_owner_only,
    refused,
    without_leftovers,
)
from tests.limits import LIMIT_SECONDS

NOT_SUPPORTED: Final = "0A000"


def _closed(holder: Holder) -> None:
    holder.run_in(holder.connect_elsewhere("postgres"), "ALTER DATABASE @database@ ALLOW_CONNECTIONS false")


def _dropped(holder: Holder) -> None:
    """Drop the database from another one. PostgreSQL refuses while a session of the service is in it."""
    elsewhere = holder.connect_elsewhere("postgres")
    with psycopg.connect(holder.subject.superuser, autocommit=True) as superuser:
        until = monotonic() + LIMIT_SECONDS
        while True:
            superuser.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                [holder.subject.database],
            )
            try:
                holder.run_in(elsewhere, "DROP DATABASE @database@")
            except psycopg.errors.ObjectInUse:
                assert monotonic() < until
            else:
                return


def _large_object_elsewhere(holder: Holder) -> None:
    holder.run_in(holder.connect_elsewhere("postgres"), "SELECT lo_from_bytea(0, 'left')")


LOGIN: Final = (
    change("the login's password changed", "ALTER ROLE CURRENT_USER PASSWORD 'mine'"),
    change("the login's password removed", "ALTER ROLE CURRENT_USER PASSWORD NULL"),
    change("a setting of the login", "ALTER ROLE CURRENT_USER SET work_mem = '1MB'"),
    change("a setting of the login in this database",
           "ALTER ROLE CURRENT_USER IN DATABASE @database@ SET statement_timeout = '1ms'"),
    change("a setting of the login that makes all transactions read-only",
           "ALTER ROLE CURRENT_USER SET default_transaction_read_only = on"),
    change("the login's search path set", "ALTER ROLE CURRENT_USER IN DATABASE @database@ SET search_path = pg_catalog"),
    change("the login's settings reset", "ALTER ROLE CURRENT_USER IN DATABASE @database@ RESET ALL",
           unseen=frozenset({"database"})),
    refused("an unknown setting", "ALTER ROLE CURRENT_USER SET mine.own = 'x'"),
    refused("the login renamed", "ALTER ROLE @login@ RENAME TO mine", code=NOT_SUPPORTED),
    refused("the login's limit of connections raised", "ALTER ROLE @login@ CONNECTION LIMIT -1"),
    refused("the login made a superuser", "ALTER ROLE @login@ SUPERUSER"),
    refused("the login's expiry set", "ALTER ROLE @login@ VALID UNTIL '2000-01-01'"),
    refused("a comment on the login", "COMMENT ON ROLE @login@ IS 'mine'"),
    refused("a setting of every login", "ALTER ROLE ALL SET work_mem = '1MB'"),
    refused("the login dropped", "DROP ROLE @login@"),
    refused("a role created", "CREATE ROLE mine"),
)  # fmt: skip

DATABASE: Final = (
    database_owner_only("a setting of the database", "ALTER DATABASE @database@ SET work_mem = '1MB'"),
    database_owner_only("several settings of the database",
                  "ALTER DATABASE @database@ SET default_transaction_read_only = on",
                  "SET default_transaction_read_only = off",
                  "ALTER DATABASE @database@ SET search_path = mine, pg_catalog"),
    database_owner_only("the database's limit of connections", "ALTER DATABASE @database@ CONNECTION LIMIT 1"),
    Change("the database closed to all connections", function=_closed, refused=IN_SCHEMA),
    database_owner_only("the database made a template", "ALTER DATABASE @database@ IS_TEMPLATE true"),
    database_owner_only("a comment on the database", "COMMENT ON DATABASE @database@ IS 'mine'"),
    database_owner_only("the comment on the database removed", "COMMENT ON DATABASE @database@ IS NULL"),
    Change("the database dropped by its holder", function=_dropped, refused=IN_SCHEMA),
    refused("the database renamed", "ALTER DATABASE @database@ RENAME TO mine"),
    refused("a database created", "CREATE DATABASE mine"),
    Change("a large object in another database", function=_large_object_elsewhere, unseen=NOWHERE),
)  # fmt: skip

USAGE_STATISTICS: Final = (
    Change("the usage statistics reset after rows were changed", superuser=("SELECT pg_stat_reset()",),
           sql=("INSERT INTO note (body) VALUES ('x')", "DELETE FROM pair WHERE a = 1")),
    Change("the usage statistics reset after a table was created",
           superuser=("SELECT pg_stat_reset()",), sql=("CREATE TABLE mine (a integer)",)),
    Change("the statistics of one table reset after rows were changed",
           superuser=("SELECT pg_stat_reset_single_table_counters(oid) FROM pg_class WHERE relname = 'note'",),
           sql=("INSERT INTO note (body) VALUES ('x')",)),
    Change("the statistics of the catalogs reset after a table was created",
           superuser=("SELECT pg_stat_reset_single_table_counters(oid) FROM pg_class WHERE oid < 16384 AND relkind = 'r'",),
           sql=("CREATE TABLE mine (a integer)",)),
    Change("the usage statistics reset, and nothing else", superuser=("SELECT pg_stat_reset()",), unseen=EVERYWHERE),
    refused("the usage statistics reset by the holder", "SELECT pg_stat_reset()"),
    refused("counting of changes disabled", "INSERT INTO note (body) VALUES ('x')", "SET track_counts = off"),
    without_leftovers("usage statistics read, with and without a flush",
                  "SELECT pg_stat_force_next_flush()", "SET stats_fetch_consistency = snapshot",
                  "SELECT count(*) FROM pg_stat_all_tables"),
)  # fmt: skip

SERVER: Final = (
    refused("triggers disabled for the session", "SET session_replication_role = replica"),
    refused("the server's settings changed", "ALTER SYSTEM SET work_mem = '1MB'"),
    refused("a tablespace created", "CREATE TABLESPACE mine LOCATION '/nowhere'"),
    refused("a replication slot created", "SELECT pg_create_physical_replication_slot('mine')"),
    refused("a replication origin created", "SELECT pg_replication_origin_create('mine')"),
    refused("the write-ahead log switched", "SELECT pg_switch_wal()"),
    refused("a checkpoint", "CHECKPOINT"),
    refused("a file read", "SELECT pg_read_file('PG_VERSION')"),
    refused("a file written", "COPY (SELECT 1) TO '/tmp/mine'"),
    refused("a program started", "COPY (SELECT 1) TO PROGRAM 'true'"),
    refused("a large object read from a file", "SELECT lo_import('/etc/hostname')"),
    refused("the role set to another one", "SET ROLE pg_monitor"),
)  # fmt: skip

CLUSTER: Final[tuple[Change, ...]] = (*LOGIN, *DATABASE, *USAGE_STATISTICS, *SERVER)
