"""Changes of rows, as most tests make them."""

from __future__ import annotations

import socket
from typing import Final

import psycopg
import pytest

from tests.hygiene.change import Change, Holder, by_function, change, left_open, without_leftovers


def _copied(holder: Holder) -> None:
    connection = holder.connect()
    with connection.cursor().copy("COPY pair FROM STDIN") as copy:
        for number in range(500):
            copy.write_row((number, f"copied {number}"))


def _frozen(holder: Holder) -> None:
    connection = holder.connect()
    with connection.transaction():
        connection.execute("TRUNCATE pair")
        with connection.cursor().copy("COPY pair FROM STDIN WITH (FREEZE)") as copy:
            copy.write_row((1, "same"))


def _vanished(holder: Holder) -> None:
    """Close the socket without a message to the server, as when a test's process is killed."""
    connection = holder.connect()
    connection.execute("INSERT INTO pair VALUES (7, 'committed')")
    connection.execute("BEGIN")
    connection.execute("INSERT INTO pair VALUES (8, 'never committed')")
    with socket.socket(fileno=connection.fileno()) as raw:
        raw.shutdown(socket.SHUT_RDWR)
        raw.detach()


def _terminated(holder: Holder) -> None:
    connection = holder.connect()
    connection.execute("INSERT INTO pair VALUES (7, 'committed')")
    with pytest.raises(psycopg.OperationalError):
        connection.execute(
            "BEGIN; INSERT INTO pair VALUES (8, 'lost'); SELECT pg_terminate_backend(pg_backend_pid())"
        )


def _two_sessions(holder: Holder) -> None:
    one, other = holder.connect(), holder.connect()
    one.execute("BEGIN")
    one.execute("INSERT INTO note (body) VALUES ('one')")
    other.execute("INSERT INTO note (body) VALUES ('other')")
    one.execute("COMMIT")


INSERTED: Final = (
    change("a row in an unseeded table", "INSERT INTO note (body) VALUES ('left')"),
    change("a row in a seeded table", "INSERT INTO person (mail) VALUES ('new@example.org')"),
    change("rows in every unseeded table",
           "INSERT INTO purchase (person_id) VALUES (1), (2)",
           "INSERT INTO purchase_line SELECT id, 1, 2 FROM purchase",
           "INSERT INTO note (body) SELECT 'n' FROM generate_series(1, 10)",
           "INSERT INTO booking VALUES (1, '[2024-01-01, 2024-02-01)'), (1, '[2024-02-01, 2024-03-01)')"),
    change("rows that refer to each other",
           "BEGIN; INSERT INTO loop_a VALUES (1, 1); INSERT INTO loop_b VALUES (1, 1); COMMIT"),
    change("a seed's circle made larger",
           "WITH new AS (INSERT INTO person (mail) VALUES ('boss@example.org') RETURNING id)"
           " INSERT INTO team (name, lead_id) SELECT 'led', id FROM new",
           "UPDATE person SET team_id = (SELECT max(id) FROM team) WHERE mail = 'boss@example.org'"),
    change("a row that refers to itself", "INSERT INTO category (id, parent_id, name) VALUES (90, 90, 'own parent')"),
    change("a row equal to existing ones", "INSERT INTO pair VALUES (1, 'same')"),
    change("a row under an id given by hand",
           "INSERT INTO person (id, mail) OVERRIDING SYSTEM VALUE VALUES (999, 'hand@example.org')"),
    change("a row without columns", "INSERT INTO no_columns DEFAULT VALUES"),
    change("a row in an unlogged table", "INSERT INTO scratch VALUES (2)"),
    change("a row that a policy hides from its owner", "INSERT INTO secret VALUES (3, 'carol', 'hidden')"),
    change("a row that a rule keeps from being deleted", "INSERT INTO kept VALUES (1)"),
    change("a row that a trigger always keeps from being deleted", "INSERT INTO guarded VALUES (1)"),
    change("a row whose deletion fires a trigger in replica sessions", "INSERT INTO hooked VALUES (1)"),
    change("rows in partitions",
           "INSERT INTO event (at, kind, note) VALUES"
           " ('2024-05-05', 'calm', 'a'), ('2025-05-05', 'done', 'b'), ('1999-01-01', 'busy', 'c')"),
    change("a row in the default partition only",
           "INSERT INTO event_rest (id, at, kind) VALUES (1000, '1999-01-01', 'busy')"),
    change("a row in an inheriting table", "INSERT INTO child VALUES (5, 6)"),
    change("a row in an inherited table", "INSERT INTO parent VALUES (5)"),
    change("a row in a seeded table, and the table frozen", "INSERT INTO pair VALUES (7, 'cold')", "VACUUM (FREEZE) pair"),
    change("a row through a view", "INSERT INTO calm_people (mail, mood) VALUES ('view@example.org', 'calm')"),
    change("a value long enough for a TOAST table",
           "INSERT INTO note (body) SELECT string_agg(md5(n::text), '') FROM generate_series(1, 3000) AS n"),
    change("twenty thousand rows", "INSERT INTO note (body) SELECT 'n' || n FROM generate_series(1, 20000) AS n"),
    change("twenty thousand rows in a seeded table",
           "INSERT INTO big SELECT n, 'more', 0 FROM generate_series(10001, 30000) AS n"),
    by_function(_copied, "rows by COPY"),
    by_function(_frozen, "rows by COPY FREEZE into a table truncated in the same transaction"),
)  # fmt: skip

CHANGED: Final = (
    change("a seeded row updated", "UPDATE person SET code = 'other' WHERE id = 1"),
    change("a seeded row's key updated", "UPDATE preference SET key = 'b' WHERE key = 'a'"),
    change("the source of a generated column updated", "UPDATE person SET mail = 'UPPER@example.org' WHERE id = 2"),
    change("a row updated through a function", "CALL promote(5)"),
    change("every row of a large seeded table updated", "UPDATE big SET n = n + 1"),
    change("one row of a large seeded table updated", "UPDATE big SET filler = 'other' WHERE id = 1500"),
    change("two rows' values exchanged",
           "UPDATE pair SET b = CASE a WHEN 1 THEN 'exchanged' ELSE 'same' END WHERE a IN (1, 2)"),
    change("a row moved to another partition", "UPDATE event SET at = '2030-01-01' WHERE at = '2024-11-01'"),
    change("rows moved to another table",
           "WITH gone AS (DELETE FROM pair WHERE a = 1 RETURNING b) INSERT INTO note (body) SELECT b FROM gone"),
    change("a long seeded value updated", "UPDATE preference SET value = value || '\"x\"' WHERE key = 'long'"),
    change("a null replaced by an empty text", "UPDATE pair SET b = '' WHERE a = 2"),
    change("a number replaced by an equal one with other digits",
           "UPDATE preference SET value = '{\"b\": [1, 2.5, null]}' WHERE key = 'a'"),
    change("a negative zero replaced by a positive one", "UPDATE person SET ratio = 0 WHERE mail = 'zero@example.org'"),
    change("a circle's references nulled", "UPDATE person SET team_id = NULL"),
    change("a row changed by an upsert",
           "INSERT INTO preference VALUES ('a', '1') ON CONFLICT (key) DO UPDATE SET value = excluded.value"),
    change("rows changed by a merge",
           "MERGE INTO pair USING (VALUES (1, 'merged'), (9, 'new')) AS v (a, b) ON pair.a = v.a AND pair.b = 'same'"
           " WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (v.a, v.b)"),
    change("a seeded row updated in an inheriting table", "UPDATE parent SET a = 30 WHERE a = 3"),
)  # fmt: skip

DELETED: Final = (
    change("a seeded row deleted", "DELETE FROM product WHERE id = 7"),
    change("a seeded row deleted with what refers to it", "DELETE FROM category WHERE id = 1"),
    change("one of several equal rows deleted", "DELETE FROM pair WHERE ctid = (SELECT min(ctid) FROM pair WHERE a = 1)"),
    change("every row of a seeded table deleted", "DELETE FROM pair"),
    change("half of a large seeded table deleted", "DELETE FROM big WHERE id % 2 = 0"),
    change("as many rows deleted as inserted", "DELETE FROM pair WHERE a = 2", "INSERT INTO pair VALUES (2, 'instead')"),
    change("a seeded table truncated", "TRUNCATE pair"),
    change("every table truncated, sequences restarted",
           "TRUNCATE person, team, category, product, pair, preference, big, event, parent, scratch, secret, purchase,"
           " purchase_line, audit, note, loop_a, loop_b RESTART IDENTITY CASCADE"),
    change("a partition truncated", "TRUNCATE event_2024"),
    change("a table truncated, and filled as it was", "TRUNCATE parent", "INSERT INTO parent VALUES (1), (2)"),
    change("rows deleted before a truncate that is rolled back",
           "BEGIN; DELETE FROM pair WHERE a = 1; SAVEPOINT s; TRUNCATE pair; ROLLBACK TO s; COMMIT"),
    change("a row inserted after a truncate in the same transaction",
           "BEGIN; TRUNCATE pair; INSERT INTO pair VALUES (1, 'same'); COMMIT"),
    change("a table truncated in a savepoint that is kept",
           "BEGIN; INSERT INTO pair VALUES (8, 'x'); SAVEPOINT s; TRUNCATE pair; RELEASE s;"
           " INSERT INTO pair VALUES (9, 'y'); COMMIT"),
    change("the last seeded row of an inheriting table deleted", "DELETE FROM ONLY child"),
)  # fmt: skip

WITHOUT_LEFTOVERS: Final = (
    without_leftovers("no statement"),
    without_leftovers("an insert that is rolled back", "BEGIN; INSERT INTO pair VALUES (8, 'x'); ROLLBACK"),
    without_leftovers("a seeded row deleted and put back", "DELETE FROM pair WHERE a = 2",
           "INSERT INTO pair VALUES (2, NULL)"),
    without_leftovers("a row inserted and deleted", "INSERT INTO pair VALUES (9, 'x')", "DELETE FROM pair WHERE a = 9"),
    without_leftovers("a table filled and truncated", "INSERT INTO kept VALUES (1)", "TRUNCATE kept"),
    without_leftovers("rows updated to their old values", "UPDATE preference SET value = value"),
    without_leftovers("rows locked", "SELECT * FROM person FOR UPDATE"),
    without_leftovers("a truncate that is rolled back", "BEGIN; TRUNCATE pair; ROLLBACK"),
    change("an insert whose savepoint is rolled back",
           "BEGIN; INSERT INTO note (body) VALUES ('stays'); SAVEPOINT s;"
           " INSERT INTO note (body) VALUES ('goes'); ROLLBACK TO s; COMMIT"),
    change("an insert within an error that was caught",
           "DO $$ BEGIN INSERT INTO note (body) VALUES ('stays');"
           " BEGIN INSERT INTO note (id, body) VALUES (1, 'goes'), (1, 'goes');"
           " EXCEPTION WHEN unique_violation THEN END; END $$"),
)  # fmt: skip

VIEWS: Final = (
    change("a materialized view refreshed after its table changed",
           "UPDATE person SET mood = 'busy'", "REFRESH MATERIALIZED VIEW by_mood"),
    change("a materialized view refreshed concurrently",
           "UPDATE person SET mood = 'busy'", "REFRESH MATERIALIZED VIEW CONCURRENTLY by_mood"),
    change("a materialized view populated for the first time", "REFRESH MATERIALIZED VIEW by_kind"),
    change("a materialized view emptied", "REFRESH MATERIALIZED VIEW by_mood WITH NO DATA"),
    without_leftovers("a materialized view refreshed without new rows", "REFRESH MATERIALIZED VIEW by_mood"),
)  # fmt: skip

BY_SESSIONS: Final = (
    left_open("rows in a transaction still open at release",
           "BEGIN", "INSERT INTO person (mail) VALUES ('open@example.org')"),
    left_open("a truncate in a transaction still open at release", "BEGIN", "TRUNCATE person CASCADE"),
    by_function(_two_sessions, "rows of two sessions at once"),
    by_function(_vanished, "rows of a client that vanished"),
    by_function(_terminated, "rows of a session that was terminated"),
)  # fmt: skip

ROWS: Final[tuple[Change, ...]] = (*INSERTED, *CHANGED, *DELETED, *WITHOUT_LEFTOVERS, *VIEWS, *BY_SESSIONS)
