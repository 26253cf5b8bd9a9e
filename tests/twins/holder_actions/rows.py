"""Actions that write or lock rows."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import psycopg

from tests.twins.holder_actions.action import Ending, Holder, HolderAction, Observation, larger_than


def _copy_text(holder: Holder) -> None:
    with holder.connect().cursor() as cursor, cursor.copy("COPY plain FROM STDIN") as copy:
        for n in range(100):
            copy.write_row((n, "TWINMARK"))


def _copy_binary(holder: Holder) -> None:
    with holder.connect().cursor() as cursor, cursor.copy("COPY ranged FROM STDIN (FORMAT binary)") as copy:
        copy.set_types(["int4"])
        for n in range(1000):
            copy.write_row((n,))


def _copy_frozen(holder: Holder) -> None:
    connection = holder.connect(autocommit=False)
    connection.execute("TRUNCATE scratch")
    with connection.cursor() as cursor, cursor.copy("COPY scratch FROM STDIN (FREEZE)") as copy:
        for n in range(500):
            copy.write_row((n, "TWINMARK"))
    connection.commit()


def _copy_killed(holder: Holder) -> None:
    connection = holder.connect()
    with (
        suppress(psycopg.OperationalError),
        connection.cursor() as cursor,
        cursor.copy("COPY hashed FROM STDIN") as copy,
    ):
        for n in range(20_000):
            copy.write_row((f"TWINMARK {n}",))
        holder.kill(connection)


def _share_locks(holder: Holder) -> None:
    sessions = [holder.connect(autocommit=False) for _ in range(2)]
    for session in sessions:
        session.execute("SELECT * FROM place FOR SHARE")
    for session in sessions:
        session.commit()


def _serialization_failure(holder: Holder) -> None:
    sessions = [holder.connect(autocommit=False) for _ in range(2)]
    for session in sessions:
        session.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        session.execute("SELECT count(*) FROM hashed")
    for session in sessions:
        session.execute("INSERT INTO hashed VALUES ('TWINMARK')")
    sessions[0].commit()
    with suppress(psycopg.errors.SerializationFailure):
        sessions[1].commit()


def _lock_timeout(holder: Holder) -> None:
    one, other = holder.connect(autocommit=False), holder.connect(autocommit=False)
    one.execute("UPDATE audited SET state = 'TWINMARK' WHERE id = 1")
    other.execute("UPDATE audited SET state = 'TWINMARK' WHERE id = 2")
    other.execute("SET LOCAL lock_timeout = 1")
    with suppress(psycopg.errors.LockNotAvailable):
        other.execute("UPDATE audited SET state = 'TWINMARK' WHERE id = 1")
    other.rollback()
    one.execute("UPDATE audited SET state = 'TWINMARK' WHERE id = 2")
    one.commit()


def _count(condition: str, result: int) -> Observation:
    return f"SELECT count(*) FROM {condition}", result


ACTIONS: Final = (
    HolderAction(
        "insert one row into a seeded table",
        "INSERT INTO item (name) VALUES ('TWINMARK')",
        leaves=_count("item WHERE name = 'TWINMARK'", 1),
    ),
    HolderAction(
        "insert rows into empty tables",
        (
            "INSERT INTO empty_one (label, amount) SELECT 'TWINMARK ' || n, n FROM generate_series(1, 500) AS n",
            "INSERT INTO empty_two (empty_one_id, note) SELECT id, 'TWINMARK' FROM empty_one",
        ),
        leaves=_count("empty_two WHERE note = 'TWINMARK'", 500),
    ),
    HolderAction(
        "insert rows into an empty table that has been analyzed",
        "INSERT INTO empty_measured SELECT n, 'TWINMARK' FROM generate_series(1, 300) AS n",
        leaves=_count("empty_measured", 300),
    ),
    HolderAction(
        "insert rows into an unlogged table",
        "INSERT INTO scratch SELECT n, 'TWINMARK' FROM generate_series(1, 300) AS n",
        leaves=_count("scratch", 300),
    ),
    HolderAction(
        "insert a row that violates a unique constraint",
        ("INSERT INTO plain VALUES (3, 'TWINMARK')", "INSERT INTO item VALUES (1, 'TWINMARK')"),
        leaves=_count("pg_stat_user_tables WHERE relname = 'item' AND n_dead_tup = 1", 1),
        refused=psycopg.errors.UniqueViolation,
    ),
    HolderAction(
        "update one row",
        "UPDATE seed SET v = 'TWINMARK' WHERE id = 7",
        leaves=("SELECT v FROM seed WHERE id = 7", "TWINMARK"),
    ),
    HolderAction(
        "update one row of an analyzed table to the same value",
        "UPDATE customer SET city = city WHERE id = 1",
        leaves=("SELECT ctid <> '(0,1)' FROM customer WHERE id = 1", True),
    ),
    HolderAction(
        "update every row of a seeded table",
        "UPDATE seed SET v = v || ' TWINMARK'",
        leaves=_count("seed WHERE v LIKE '% TWINMARK'", 200),
    ),
    HolderAction(
        "update every row of a seeded table in each of 12 leases",
        "UPDATE seed SET k = k + 1",
        leaves=("SELECT k FROM seed WHERE id = 200", 12),
        rounds=12,
    ),
    HolderAction(
        "update every row of an analyzed table",
        "UPDATE measured SET kind = 'TWINMARK', amount = amount + 1",
        leaves=_count("measured WHERE kind = 'TWINMARK'", 1000),
    ),
    HolderAction(
        "update every row of an analyzed table in each of 12 leases",
        "UPDATE orders SET total = total + 1",
        leaves=("SELECT total::int FROM orders WHERE id = 4", 17),
        rounds=12,
    ),
    HolderAction(
        "update rows in place within their pages (HOT)",
        ("UPDATE audited SET state = 'TWINMARK'", "UPDATE audited SET state = 'TWINMARK 2'"),
        leaves=("SELECT n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'audited'", 4),
    ),
    HolderAction(
        "update rows through a view",
        "UPDATE large_order SET total = total + 1",
        leaves=_count("orders WHERE total >= 626", 1),
    ),
    HolderAction(
        "delete one row",
        "DELETE FROM seed WHERE id = 7",
        leaves=_count("seed", 199),
    ),
    HolderAction(
        "delete half of the rows of a table with a BRIN index",
        "DELETE FROM ranged WHERE n % 2 = 0",
        leaves=_count("ranged", 150),
    ),
    HolderAction(
        "delete every row of an analyzed table",
        "DELETE FROM measured",
        leaves=_count("measured", 0),
    ),
    HolderAction(
        "delete every row and insert the same rows in reverse order",
        "WITH gone AS (DELETE FROM place RETURNING *) INSERT INTO place SELECT * FROM gone ORDER BY id DESC",
        leaves=("SELECT id FROM place LIMIT 1", 50),
    ),
    HolderAction(
        "delete rows that cascade",
        (
            "INSERT INTO empty_one (label) VALUES ('TWINMARK 1'), ('TWINMARK 2')",
            "INSERT INTO empty_two (empty_one_id) SELECT id FROM empty_one",
            "DELETE FROM empty_one",
        ),
        leaves=("SELECT last_value FROM empty_two_id_seq WHERE NOT EXISTS (TABLE empty_two)", 2),
    ),
    HolderAction(
        "insert 500 rows and roll back",
        "INSERT INTO item (name) SELECT 'TWINMARK ' || n FROM generate_series(1, 500) AS n",
        leaves=larger_than(8192, "item"),
        ending=Ending.ROLLBACK,
    ),
    HolderAction(
        "insert 20,000 rows and roll back",
        "INSERT INTO seed SELECT n, n % 10, 'TWINMARK ' || n FROM generate_series(1001, 21000) AS n",
        leaves=larger_than(1_000_000, "seed"),
        ending=Ending.ROLLBACK,
    ),
    HolderAction(
        "insert 20,000 rows and delete them",
        (
            "INSERT INTO hashed SELECT 'TWINMARK ' || n FROM generate_series(1, 20000) AS n",
            "DELETE FROM hashed",
        ),
        leaves=larger_than(500_000, "hashed"),
    ),
    HolderAction(
        "update and delete many rows and roll back",
        ("UPDATE customer SET name = 'TWINMARK'", "DELETE FROM orders"),
        leaves=("SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'customer'", 100),
        ending=Ending.ROLLBACK,
    ),
    HolderAction(
        "roll back to savepoints",
        (
            "BEGIN",
            "INSERT INTO empty_measured VALUES (1, 'TWINMARK')",
            "SAVEPOINT one",
            "INSERT INTO empty_measured VALUES (2, 'TWINMARK')",
            "ROLLBACK TO one",
            "SAVEPOINT two",
            "INSERT INTO empty_measured VALUES (3, 'TWINMARK')",
            "RELEASE two",
            "COMMIT",
        ),
        leaves=("SELECT string_agg(id::text, ' ' ORDER BY id) FROM empty_measured", "1 3"),
    ),
    HolderAction(
        "insert rows in 300 subtransactions",
        """
        DO $$ BEGIN FOR n IN 1..300 LOOP
            BEGIN
                INSERT INTO empty_measured VALUES (n / 2, 'TWINMARK');
            EXCEPTION WHEN unique_violation THEN NULL;
            END;
        END LOOP; END $$
        """,
        leaves=_count("empty_measured", 151),
    ),
    HolderAction("truncate a table", "TRUNCATE seed", leaves=_count("seed", 0)),
    HolderAction(
        "truncate a table and restart its identity",
        "TRUNCATE audit_entry RESTART IDENTITY",
        leaves=("SELECT is_called FROM audit_entry_id_seq", False),
    ),
    HolderAction("truncate tables with CASCADE", "TRUNCATE customer CASCADE", leaves=_count("orders", 0)),
    HolderAction(
        "truncate the partitioned table and fill it again in reverse order",
        (
            "CREATE TEMPORARY TABLE rows AS SELECT * FROM event",
            "TRUNCATE event",
            "INSERT INTO event SELECT * FROM rows ORDER BY id DESC",
        ),
        leaves=("SELECT ctid <> '(0,1)' FROM event WHERE id = 1", True),
    ),
    HolderAction(
        "fill and truncate a table and roll back",
        (
            "INSERT INTO item (name) VALUES ('TWINMARK 1'), ('TWINMARK 2'), ('TWINMARK 3')",
            "TRUNCATE item RESTART IDENTITY",
            "INSERT INTO item (name) VALUES ('TWINMARK 4')",
        ),
        leaves=("SELECT last_value FROM item_id_seq", 4),
        ending=Ending.ROLLBACK,
    ),
    HolderAction("copy rows in as text", _copy_text, leaves=_count("plain WHERE word = 'TWINMARK'", 100)),
    HolderAction("copy rows in as binary", _copy_binary, leaves=_count("ranged", 1300)),
    HolderAction("copy frozen rows in after TRUNCATE", _copy_frozen, leaves=_count("scratch", 500)),
    HolderAction(
        "die in the middle of COPY",
        _copy_killed,
        leaves=larger_than(100_000, "hashed"),
        ending=Ending.KILLED,
    ),
    HolderAction(
        "insert large values that are stored outside the table",
        """
        INSERT INTO document SELECT 100 + n, '{"by": "TWINMARK"}', (
            SELECT string_agg(md5(n || ' ' || m), 'TWINMARK') FROM generate_series(1, 1000) AS m
        ) FROM generate_series(1, 5) AS n
        """,
        leaves=(
            "SELECT pg_relation_size(reltoastrelid) > 100000 FROM pg_class WHERE oid = 'document'::regclass",
            True,
        ),
    ),
    HolderAction(
        "update large values",
        (
            "ALTER TABLE document ALTER long SET STORAGE EXTERNAL",
            "UPDATE document SET long = long || 'TWINMARK'",
            'UPDATE document SET body = body || \'{"by": "TWINMARK"}\'',
            "UPDATE document SET long = 'TWINMARK'",
            "ALTER TABLE document ALTER long SET STORAGE EXTENDED",
        ),
        leaves=(
            "SELECT pg_relation_size(reltoastrelid) > 50000 FROM pg_class WHERE oid = 'document'::regclass",
            True,
        ),
    ),
    HolderAction(
        "insert 2,000 documents into the pending list of a GIN index",
        "INSERT INTO document SELECT n, jsonb_build_object('TWINMARK', n) FROM generate_series(11, 2010) AS n",
        leaves=_count("document WHERE body ? 'TWINMARK'", 2000),
    ),
    HolderAction(
        "insert and delete ranges in a GiST index",
        (
            "INSERT INTO place SELECT n, int4range(n, n + n) FROM generate_series(100, 3000) AS n",
            "DELETE FROM place WHERE id >= 100",
        ),
        leaves=larger_than(100_000, "place_during"),
    ),
    HolderAction(
        "insert duplicates into the table without a key",
        "INSERT INTO plain SELECT * FROM plain",
        leaves=_count("plain WHERE word = 'same'", 4),
    ),
    HolderAction(
        "update one of two equal rows",
        "UPDATE plain SET n = n WHERE ctid = '(0,1)'",
        leaves=("SELECT ctid::text FROM plain WHERE word = 'same' ORDER BY ctid LIMIT 1", "(0,2)"),
    ),
    HolderAction(
        "upsert rows",
        """
        INSERT INTO item VALUES (1, 'TWINMARK'), (1000, 'TWINMARK')
        ON CONFLICT (id) DO UPDATE SET name = excluded.name || ' again'
        """,
        leaves=("SELECT name FROM item WHERE id = 1", "TWINMARK again"),
    ),
    HolderAction(
        "merge rows",
        """
        MERGE INTO customer USING (VALUES (1, 'TWINMARK'), (500, 'TWINMARK')) AS new (id, name)
        ON customer.id = new.id
        WHEN MATCHED THEN UPDATE SET name = new.name
        WHEN NOT MATCHED THEN INSERT VALUES (new.id, new.name, 'TWINMARK')
        """,
        leaves=_count("customer WHERE name = 'TWINMARK'", 2),
    ),
    HolderAction(
        "insert rows into a partition and the partitioned table",
        (
            "INSERT INTO event_2024 SELECT n, '2024-02-02', 'TWINMARK' FROM generate_series(1, 400) AS n",
            "INSERT INTO event SELECT n, '2025-02-02', 'TWINMARK' FROM generate_series(1, 400) AS n",
        ),
        leaves=_count("event_2025 WHERE body = 'TWINMARK'", 400),
    ),
    HolderAction("truncate a partition", "TRUNCATE event_2025", leaves=_count("event_2025", 0)),
    HolderAction(
        "move rows to another partition",
        "UPDATE event SET at = at + 365 WHERE at < '2025-01-01'",
        leaves=_count("event_2024", 0),
    ),
    HolderAction(
        "write by a trigger",
        ("UPDATE audited SET state = 'TWINMARK'", "INSERT INTO audited VALUES (3, 'TWINMARK')"),
        leaves=_count("audit_entry WHERE text = 'TWINMARK'", 3),
    ),
    HolderAction(
        "lock every row for an update",
        "SELECT * FROM audited FOR UPDATE",
        leaves=_count("audited WHERE xmax <> '0'", 2),
    ),
    HolderAction(
        "lock rows in two sessions at once (multixacts)",
        _share_locks,
        leaves=(
            "SELECT count(*) FROM pg_get_multixact_members((SELECT nullif(xmax, '0') FROM place LIMIT 1))",
            2,
        ),
    ),
    HolderAction(
        "defer a foreign key in a transaction",
        (
            "ALTER TABLE orders ALTER CONSTRAINT orders_customer_id_fkey DEFERRABLE INITIALLY DEFERRED",
            "BEGIN",
            "INSERT INTO orders VALUES (1000, 1000, 1)",
            "INSERT INTO customer VALUES (1000, 'TWINMARK', 'TWINMARK')",
            "COMMIT",
            "ALTER TABLE orders ALTER CONSTRAINT orders_customer_id_fkey NOT DEFERRABLE",
        ),
        leaves=_count("orders WHERE customer_id = 1000", 1),
    ),
    HolderAction(
        "lose a serializable transaction to a conflict",
        _serialization_failure,
        leaves=("SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'hashed'", 1),
    ),
    HolderAction(
        "wait for a lock until the timeout",
        _lock_timeout,
        leaves=_count("audited WHERE state = 'TWINMARK'", 2),
    ),
)
