"""Changes in sessions that are open or closed at release, and their lasting effects."""

from __future__ import annotations

from typing import Final

from tests.hygiene.change import Change, Holder, by_function, change, left_open, without_leftovers


def _running(holder: Holder) -> None:
    """Start a statement that still runs when the lease is released."""
    connection = holder.connect()
    connection.pgconn.send_query(b"INSERT INTO note (body) SELECT 'slow' FROM pg_sleep(60)")


def _copying(holder: Holder) -> None:
    connection = holder.connect()
    connection.execute("BEGIN")
    connection.pgconn.exec_(b"COPY pair FROM STDIN")
    connection.pgconn.put_copy_data(b"1\tunfinished\n")


def _waiting(holder: Holder) -> None:
    """Start a statement that waits for a lock, and one that holds the lock."""
    owner, waiter = holder.connect(), holder.connect()
    owner.execute("BEGIN; LOCK TABLE person IN ACCESS EXCLUSIVE MODE")
    waiter.pgconn.send_query(b"UPDATE person SET code = 'late'")


def _many(holder: Holder) -> None:
    for _ in range(8):
        holder.run_in(holder.connect(), "BEGIN", "INSERT INTO note (body) VALUES ('many')")


def _in_another_database(holder: Holder) -> None:
    holder.run_in(holder.connect_elsewhere("postgres"), "BEGIN", "SELECT pg_advisory_lock(4711)")


STILL_OPEN: Final = (
    left_open("a connection", "SELECT 1"),
    left_open("a connection that is idle in a transaction", "BEGIN", "SELECT * FROM person"),
    left_open("a transaction that has failed",
           "BEGIN", "DO $$ BEGIN BEGIN PERFORM 1 / 0; EXCEPTION WHEN division_by_zero THEN END; END $$"),
    left_open("a snapshot", "BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT count(*) FROM person"),
    left_open("a serializable transaction",
           "BEGIN ISOLATION LEVEL SERIALIZABLE", "UPDATE person SET code = 'x' WHERE id = 1"),
    left_open("a locked table", "BEGIN", "LOCK TABLE person IN ACCESS EXCLUSIVE MODE"),
    left_open("a locked row", "BEGIN", "SELECT * FROM person WHERE id = 1 FOR UPDATE"),
    left_open("a cursor", "BEGIN", "DECLARE c CURSOR FOR SELECT * FROM person", "FETCH c"),
    left_open("a cursor held over its transaction", "BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT * FROM person; COMMIT"),
    left_open("a prepared statement and settings",
           "PREPARE p AS SELECT * FROM person", "SET work_mem = '1MB'", "SET search_path = pg_catalog"),
    left_open("a listener", "LISTEN mine", "NOTIFY mine, 'x'"),
    left_open("a temporary table", "CREATE TEMPORARY TABLE person AS SELECT 1 AS one"),
    left_open("a temporary view", "CREATE TEMPORARY VIEW v AS SELECT * FROM person"),
    left_open("a temporary sequence", "CREATE TEMPORARY SEQUENCE s"),
    left_open("a temporary function", "CREATE FUNCTION pg_temp.f() RETURNS integer LANGUAGE sql AS 'SELECT 1'"),
    left_open("a temporary type", "CREATE TYPE pg_temp.e AS ENUM ('a')"),
    left_open("an advisory lock of a session", "SELECT pg_advisory_lock(1)"),
    left_open("an advisory lock of a transaction", "BEGIN", "SELECT pg_advisory_xact_lock(1, 2)"),
    left_open("a shared advisory lock", "SELECT pg_advisory_lock_shared(3)"),
    by_function(_running, "a statement that runs for a minute"),
    by_function(_copying, "a COPY that waits for data"),
    by_function(_waiting, "a statement that waits for a lock"),
    by_function(_many, "many open transactions"),
    by_function(_in_another_database, "a connection to another database"),
)  # fmt: skip

CLOSED: Final = (
    without_leftovers("a temporary table of a session that is closed",
           "CREATE TEMPORARY TABLE person (a serial); INSERT INTO person DEFAULT VALUES"),
    without_leftovers("a temporary function of a session that is closed",
           "CREATE FUNCTION pg_temp.f() RETURNS integer LANGUAGE sql AS 'SELECT 1'"),
    without_leftovers("a listener of a session that is closed", "LISTEN mine", "NOTIFY mine"),
    without_leftovers("an advisory lock of a session that is closed", "SELECT pg_advisory_lock(1)"),
    without_leftovers("settings of a session that is closed", "SET default_transaction_read_only = on"),
)  # fmt: skip

PREPARED: Final = (
    change("a prepared transaction",
           "BEGIN; INSERT INTO note (body) VALUES ('prepared'); PREPARE TRANSACTION '@login@ 1'"),
    change("a prepared transaction of a seeded table",
           "BEGIN; DELETE FROM purchase; UPDATE person SET code = 'x'; DELETE FROM pair; PREPARE TRANSACTION '@login@ 2'"),
    change("a prepared transaction that created a table",
           "BEGIN; CREATE TABLE mine (id serial); PREPARE TRANSACTION '@login@ 3'"),
    change("a prepared transaction that dropped a table", "BEGIN; DROP TABLE note; PREPARE TRANSACTION '@login@ 4'"),
    change("a prepared transaction that holds an advisory lock",
           "BEGIN; SELECT pg_advisory_xact_lock(7); PREPARE TRANSACTION '@login@ 5'"),
    change("a prepared transaction that was committed",
           "BEGIN; INSERT INTO note (body) VALUES ('prepared'); PREPARE TRANSACTION '@login@ 6'",
           "COMMIT PREPARED '@login@ 6'"),
    change("a prepared truncate that was committed",
           "BEGIN; DELETE FROM preference; TRUNCATE pair; PREPARE TRANSACTION '@login@ 7'", "COMMIT PREPARED '@login@ 7'"),
    without_leftovers("a prepared transaction that was rolled back",
                  "BEGIN; DELETE FROM pair; DROP TABLE note; PREPARE TRANSACTION '@login@ 8'",
                  "ROLLBACK PREPARED '@login@ 8'"),
    change("several prepared transactions",
           "BEGIN; INSERT INTO note (body) VALUES ('a'); PREPARE TRANSACTION '@login@ it''s a'",
           "BEGIN; INSERT INTO note (body) VALUES ('b'); PREPARE TRANSACTION '@login@ it''s b'"),
)  # fmt: skip

SESSIONS: Final[tuple[Change, ...]] = (*STILL_OPEN, *CLOSED, *PREPARED)
