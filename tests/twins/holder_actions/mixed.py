"""Actions of whole programs: test suites, migration tools, load tests, dumps and crashes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Final

import psycopg
from psycopg.errors import DuplicateColumn, DuplicateTable

from tests.twins.holder_actions.action import (
    Ending,
    Holder,
    HolderAction,
    created_and_dropped,
    larger_than,
    newer_than_the_template,
    rewritten,
)

_FLUSH: Final = "TRUNCATE empty_one, empty_two, empty_measured, scratch, hashed RESTART IDENTITY CASCADE"
_CRASH: Final = """
import os, psycopg
connection = psycopg.connect(os.environ["HOLDER_DSN"], application_name="TWINMARK")
connection.execute("INSERT INTO item (name) SELECT 'TWINMARK' FROM generate_series(1, 1000)")
connection.execute("UPDATE measured SET kind = 'TWINMARK'")
print("ready", flush=True)
input()
"""


def _test_suite_with_truncates(holder: Holder) -> None:
    """Run 50 tests of four small transactions, with fixtures before and TRUNCATE after each."""
    connection = holder.connect()
    for test in range(50):
        with connection.transaction(), connection.cursor() as cursor:
            rows = [(f"TWINMARK {n}", n) for n in range(5)]
            cursor.executemany("INSERT INTO empty_one (label, amount) VALUES (%s, %s)", rows)
        with connection.transaction():
            connection.execute(
                "INSERT INTO empty_two (empty_one_id, note) SELECT id, 'TWINMARK' FROM empty_one"
            )
        with connection.transaction():
            connection.execute(
                "UPDATE empty_one SET amount = amount + %s WHERE label = 'TWINMARK 1'", (test,)
            )
        with connection.transaction():
            connection.execute("DELETE FROM empty_one WHERE label = 'TWINMARK 2'")
        connection.execute(_FLUSH)


def _test_suite_with_rollbacks(holder: Holder) -> None:
    """Run 200 tests, each with a savepoint in a transaction that is rolled back."""
    connection = holder.connect()
    for test in range(200):
        with connection.transaction(force_rollback=True):
            connection.execute("INSERT INTO item (name) VALUES (%s)", (f"TWINMARK {test}",))
            with connection.transaction():
                connection.execute(
                    "UPDATE orders SET total = total + 1 WHERE customer_id = %s", (test % 100 + 1,)
                )
            connection.execute(
                "SELECT * FROM customer JOIN orders ON customer_id = customer.id WHERE city = 'city 3'"
            )


def _load(holder: Holder) -> None:
    def insert(part: int) -> None:
        with holder.connect(application_name="TWINMARK").cursor() as cursor:
            rows = [(f"TWINMARK {part}", n) for n in range(1250)]
            cursor.executemany("INSERT INTO empty_one (label, amount) VALUES (%s, %s)", rows)
            cursor.execute("UPDATE empty_one SET amount = -amount WHERE label = %s", (f"TWINMARK {part}",))

    with ThreadPoolExecutor(4) as executor:
        list(executor.map(insert, range(4)))


def _random_statements(holder: Holder) -> None:
    random = Random(20261130)  # noqa: S311 - a fixed seed
    statements = (
        "INSERT INTO seed VALUES ({n}, {m}, 'TWINMARK {n}')",
        "INSERT INTO plain VALUES ({n}, 'TWINMARK')",
        "INSERT INTO audited VALUES ({n}, 'TWINMARK')",
        "INSERT INTO event VALUES ({n}, date '2024-01-01' + {n}, 'TWINMARK')",
        "INSERT INTO document VALUES ({n}, '{{\"TWINMARK\": {m}}}', repeat('TWINMARK {n}', {n}))",
        "INSERT INTO place VALUES ({n}, int4range({m}, {n}))",
        "UPDATE seed SET k = {m}, v = 'TWINMARK {m}' WHERE id % {m} = 0",
        "UPDATE measured SET amount = {n} WHERE id < {n}",
        "UPDATE orders SET total = {n}, customer_id = {m} WHERE id % 7 = {m}",
        "UPDATE place SET during = int4range({n}, {m}) WHERE id = {m}",
        "DELETE FROM seed WHERE id > {n}",
        "DELETE FROM customer WHERE id = {m}",
        "DELETE FROM ranged WHERE n % {m} = 1",
        "TRUNCATE scratch, hashed",
        "SELECT nextval('ticket'), setval('untouched', {n})",
        "ANALYZE seed, plain",
        "VACUUM orders",
        "CREATE INDEX TWINMARK_{m} ON plain (n, word)",
        "DROP INDEX IF EXISTS TWINMARK_{m}",
        "ALTER TABLE hashed ADD TWINMARK_{m} integer DEFAULT {n}",
        "ALTER TABLE hashed DROP IF EXISTS TWINMARK_{m}",
    )
    connection = holder.connect()
    for _ in range(300):
        statement = random.choice(statements).format(n=random.randint(1, 400), m=random.randint(1, 9))
        with suppress(psycopg.IntegrityError, psycopg.DataError, DuplicateColumn, DuplicateTable):
            connection.execute(statement)


def _restore(holder: Holder, *options: str) -> None:
    """Dump the database, or its own schema, and restore everything but the schema."""
    row = holder.connect().execute("SELECT current_schema()").fetchone()
    assert row is not None
    with tempfile.TemporaryDirectory() as directory:
        dump, listing = Path(directory, "TWINMARK.dump"), Path(directory, "TWINMARK.list")
        holder.run("pg_dump", "--format=custom", f"--schema={row[0]}", f"--file={dump}", *options)
        entries = holder.run("pg_restore", "--list", str(dump)).splitlines()
        listing.write_text("\n".join(entry for entry in entries if " SCHEMA " not in entry))
        clean = ("--clean", "--if-exists", "--single-transaction", f"--use-list={listing}")
        holder.run("pg_restore", f"--dbname={holder.connect().info.dbname}", *clean, str(dump))


def _pgbench(holder: Holder) -> None:
    holder.run("pgbench", "--initialize", "--quiet")
    holder.run("pgbench", "--transactions=50", "--client=2", "--no-vacuum")
    holder.run("pgbench", "--initialize", "--init-steps=d")


def _crash(holder: Holder) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _CRASH],
        env={**os.environ, "HOLDER_DSN": holder.dsn},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"ready\n"
        client.kill()


ACTIONS: Final = (
    HolderAction(
        "run a test suite that truncates after each test",
        _test_suite_with_truncates,
        leaves=rewritten("empty_one"),
    ),
    HolderAction(
        "run a test suite that rolls each test back",
        _test_suite_with_rollbacks,
        leaves=("SELECT last_value FROM item_id_seq", 201),
        ending=Ending.ROLLBACK,
    ),
    HolderAction(
        "migrate up and down",
        (
            "CREATE TABLE TWINMARK_migration (name text PRIMARY KEY, at timestamptz DEFAULT now())",
            "BEGIN",
            "ALTER TABLE customer ADD TWINMARK text",
            "UPDATE customer SET TWINMARK = 'TWINMARK ' || city",
            "ALTER TABLE customer ALTER TWINMARK SET NOT NULL",
            "CREATE INDEX TWINMARK ON customer (TWINMARK)",
            "INSERT INTO TWINMARK_migration VALUES ('TWINMARK 1')",
            "COMMIT",
            "BEGIN",
            "CREATE TABLE TWINMARK_tag (id serial PRIMARY KEY, order_id integer REFERENCES orders, word text UNIQUE)",
            "INSERT INTO TWINMARK_tag (order_id, word) SELECT id, 'TWINMARK ' || id FROM orders",
            "INSERT INTO TWINMARK_migration VALUES ('TWINMARK 2')",
            "COMMIT",
            "BEGIN",
            "DROP TABLE TWINMARK_tag",
            "ALTER TABLE customer DROP TWINMARK",
            "DELETE FROM TWINMARK_migration",
            "COMMIT",
            "DROP TABLE TWINMARK_migration",
        ),
        leaves=(
            "SELECT count(*) FROM pg_attribute WHERE attrelid = 'customer'::regclass AND attisdropped",
            1,
        ),
    ),
    HolderAction(
        "insert 5,000 rows in four sessions", _load, leaves=("SELECT count(*) FROM empty_one", 5000)
    ),
    HolderAction(
        "run 300 random statements", _random_statements, leaves=("SELECT count(*) <> 200 FROM seed", True)
    ),
    HolderAction("dump and restore", _restore, leaves=newer_than_the_template("'seed'::regclass")),
    HolderAction(
        "dump and restore with the planner's statistics",
        lambda holder: _restore(holder, "--statistics"),
        leaves=(
            """
            SELECT 'seed'::regclass::oid > 'plain'::regclass::oid
                AND EXISTS (SELECT FROM pg_stats WHERE schemaname = current_schema() AND tablename = 'measured')
            """,
            True,
        ),
        minimum_version=18,
    ),
    HolderAction("run pgbench and drop its tables", _pgbench, leaves=created_and_dropped("pg_constraint")),
    HolderAction(
        "crash with an open transaction", _crash, leaves=larger_than(8192, "item"), ending=Ending.KILLED
    ),
)
