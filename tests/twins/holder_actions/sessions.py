"""Actions whose sessions, transactions or locks outlive them."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Final

import psycopg

from tests.limits import LIMIT_SECONDS
from tests.twins.holder_actions.action import (
    MARKER,
    Connection,
    Ending,
    Holder,
    HolderAction,
    Observation,
    sessions,
)


def _start(holder: Holder, connection: Connection, statement: str, state: str) -> None:
    """Send a statement without waiting for its end, and wait until the session is seen in this state."""
    connection.pgconn.send_query(statement.encode())
    observer = holder.connect()
    query = f"SELECT count(*) FROM pg_stat_activity WHERE pid = {connection.info.backend_pid} AND {state}"
    until = time.monotonic() + LIMIT_SECONDS
    while observer.execute(query).fetchone() != (1,):
        assert time.monotonic() < until, statement
        time.sleep(0.01)


def _running(holder: Holder) -> None:
    connection = holder.connect(application_name=MARKER)
    _start(holder, connection, "SELECT 'TWINMARK', pg_sleep(3600)", "state = 'active'")
    holder.keep(connection)


def _running_after_death(holder: Holder) -> None:
    connection = holder.connect(application_name=MARKER)
    _start(
        holder, connection, "INSERT INTO plain SELECT 5, 'TWINMARK' FROM pg_sleep(3600)", "state = 'active'"
    )
    holder.kill(connection, is_busy=True)


def _waiting(holder: Holder) -> None:
    owner, waiter = holder.connect(autocommit=False), holder.connect(application_name=MARKER)
    owner.execute("LOCK TABLE orders")
    _start(holder, waiter, "UPDATE orders SET total = 1", "wait_event_type = 'Lock'")
    holder.keep(owner)
    holder.keep(waiter)


def _failed(holder: Holder) -> None:
    connection = holder.connect(autocommit=False)
    connection.execute("INSERT INTO plain VALUES (4, 'TWINMARK')")
    with suppress(psycopg.errors.DivisionByZero):
        connection.execute("SELECT 1 / 0 AS TWINMARK")
    holder.keep(connection)


def _unread_notifications(holder: Holder) -> None:
    listener = holder.connect(application_name=MARKER)
    listener.execute("LISTEN TWINMARK")
    listener.execute("BEGIN")
    listener.execute("SELECT 'TWINMARK'")
    sender = holder.connect()
    sender.execute(
        "SELECT pg_notify('twinmark', 'TWINMARK ' || repeat('.', 7000)) FROM generate_series(1, 3)"
    )
    holder.keep(listener)


def _many_sessions(holder: Holder) -> None:
    for _ in range(5):
        connection = holder.connect(application_name=MARKER)
        connection.execute("SELECT count(*) AS TWINMARK FROM seed")
        holder.keep(connection)


_ACTIVE: Final = sessions("state = 'active' AND query LIKE '%TWINMARK%'")
_IN_TRANSACTION: Final = sessions("state = 'idle in transaction' AND query LIKE '%TWINMARK%'")


def _locks(condition: str, result: int) -> Observation:
    others = "database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND pid <> pg_backend_pid()"
    return f"SELECT count(*) FROM pg_locks WHERE {others} AND {condition}", result


ACTIONS: Final = (
    HolderAction(
        "end a session that has a temporary table",
        (
            "CREATE TEMPORARY TABLE TWINMARK AS SELECT * FROM seed",
            "CREATE TEMPORARY TABLE item AS SELECT 'TWINMARK' AS name",
            "ANALYZE TWINMARK",
        ),
        leaves=("SELECT count(*) > 0 FROM pg_namespace WHERE nspname LIKE 'pg_temp%'", True),
    ),
    HolderAction(
        "keep a session with a temporary table",
        (
            "CREATE TEMPORARY TABLE TWINMARK AS SELECT * FROM seed",
            "CREATE TEMPORARY VIEW TWINMARK_view AS SELECT * FROM TWINMARK",
        ),
        leaves=("SELECT count(*) FROM pg_class WHERE relname = 'twinmark' AND relpersistence = 't'", 1),
        ending=Ending.KEPT,
    ),
    HolderAction(
        "keep a session with prepared statements",
        ("PREPARE TWINMARK AS SELECT 'TWINMARK' FROM seed", "EXECUTE TWINMARK"),
        leaves=sessions("query = 'EXECUTE TWINMARK'"),
        ending=Ending.KEPT,
    ),
    HolderAction(
        "keep a session that listens",
        "LISTEN TWINMARK",
        leaves=sessions("query = 'LISTEN TWINMARK'"),
        ending=Ending.KEPT,
    ),
    HolderAction(
        "keep a session with settings",
        (
            "SET search_path = pg_catalog",
            "SET default_transaction_read_only = on",
            "SET twins.marker = 'TWINMARK'",
        ),
        leaves=sessions("query LIKE 'SET twins.marker%'"),
        ending=Ending.KEPT,
    ),
    HolderAction(
        "keep a cursor WITH HOLD",
        (
            "BEGIN",
            "DECLARE TWINMARK CURSOR WITH HOLD FOR SELECT *, 'TWINMARK' FROM orders",
            "FETCH 5 FROM TWINMARK",
            "COMMIT",
        ),
        leaves=sessions("state = 'idle' AND application_name = 'TWINMARK'"),
        ending=Ending.KEPT,
    ),
    HolderAction(
        "keep advisory locks",
        ("SELECT pg_advisory_lock(7), pg_advisory_lock_shared(8)", "SELECT pg_advisory_lock(1, 2)"),
        leaves=_locks("locktype = 'advisory'", 3),
        ending=Ending.KEPT,
    ),
    HolderAction(
        "take advisory locks and end",
        ("SELECT pg_advisory_lock(7)", "INSERT INTO scratch VALUES (pg_backend_pid(), 'TWINMARK')"),
        leaves=("SELECT count(*) FROM scratch", 1),
    ),
    HolderAction(
        "abandon an open transaction with writes",
        (
            "INSERT INTO item (name) SELECT 'TWINMARK' FROM generate_series(1, 500)",
            "UPDATE orders SET total = 77",
            "SELECT 'TWINMARK'",
        ),
        leaves=_IN_TRANSACTION,
        ending=Ending.ABANDONED,
    ),
    HolderAction(
        "abandon an open transaction with changed definitions",
        (
            "CREATE TABLE TWINMARK (n integer)",
            "ALTER TABLE customer ADD TWINMARK text",
            "TRUNCATE event",
        ),
        leaves=_locks("relation = 'customer'::regclass AND mode = 'AccessExclusiveLock'", 1),
        ending=Ending.ABANDONED,
    ),
    HolderAction(
        "abandon an open transaction with an exclusive lock",
        "LOCK TABLE measured, ranged, document /* TWINMARK */",
        leaves=_locks("mode = 'AccessExclusiveLock'", 3),
        ending=Ending.ABANDONED,
    ),
    HolderAction(
        "abandon a failed transaction",
        _failed,
        leaves=sessions("state = 'idle in transaction (aborted)'"),
        ending=Ending.ABANDONED,
    ),
    HolderAction(
        "keep a snapshot in an idle transaction",
        (
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
            "SELECT count(*) AS TWINMARK FROM seed",
        ),
        leaves=sessions("backend_xmin IS NOT NULL AND query LIKE '%TWINMARK%'"),
        ending=Ending.ABANDONED,
    ),
    HolderAction(
        "die inside a transaction with writes",
        (
            "INSERT INTO empty_one (label) SELECT 'TWINMARK' FROM generate_series(1, 1000)",
            "UPDATE customer SET name = 'TWINMARK'",
        ),
        leaves=("SELECT last_value FROM empty_one_id_seq", 1000),
        ending=Ending.KILLED,
    ),
    HolderAction("keep a statement running", _running, leaves=_ACTIVE, ending=Ending.KEPT),
    HolderAction("die while a statement runs", _running_after_death, leaves=_ACTIVE, ending=Ending.KILLED),
    HolderAction(
        "keep a session that waits for a lock",
        _waiting,
        leaves=_locks("NOT granted", 1),
        ending=Ending.ABANDONED,
    ),
    HolderAction(
        "keep notifications unread",
        _unread_notifications,
        leaves=_IN_TRANSACTION,
        ending=Ending.ABANDONED,
    ),
    HolderAction(
        "keep five sessions",
        _many_sessions,
        leaves=sessions("application_name = 'TWINMARK'", 5),
        ending=Ending.KEPT,
    ),
    HolderAction(
        "sort in temporary files",
        ("SET work_mem = '64kB'", "SELECT n || 'TWINMARK' FROM generate_series(1, 50000) AS n ORDER BY 1"),
        leaves=("SELECT temp_files > 0 FROM pg_stat_database WHERE datname = current_database()", True),
    ),
)
