"""Probes of behaviour: errors, triggers, numbers of rows, new values of sequences, and the rights to change things."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from tests.twins.probes.probe import Probe, Stage
from tests.twins.probes.session import Query, Session
from tests.twins.probes.tables import SEQUENCES, STORED, for_each
from tests.twins.probes.values import Json

UPDATES: Final[Mapping[str, str]] = {
    "item": "name = name",
    "seed": "v = v",
    "measured": "amount = amount",
    "customer": "city = city",
    "orders": "total = total",
    "event": "body = body",
    "document": "body = body",
    "place": "during = during",
    "ranged": "n = n",
    "audited": "state = state",
    "plain": "word = word",
    "empty_one": "label = label",
    "hashed": "word = word",
}
_VIOLATIONS: Final[Mapping[str, str]] = {
    "unique": "INSERT INTO seed VALUES (1, 1, 'again')",
    "foreign key of a child": "INSERT INTO orders VALUES (9001, 77777, 1)",
    "foreign key of a parent": "DELETE FROM customer WHERE id = 1",
    "foreign key to an empty table": "INSERT INTO empty_two (id, empty_one_id) VALUES (9001, 1)",
    "not null": "INSERT INTO seed VALUES (9001, NULL, 'x')",
    "generated always": "INSERT INTO empty_one (id) VALUES (1)",
    "no partition": "INSERT INTO event VALUES (1, '1999-01-01')",
    "numeric overflow": "INSERT INTO orders VALUES (9001, 1, 1e12)",
    "division by zero": "SELECT 1 / 0",
    "materialized view": "INSERT INTO city_count VALUES ('x', 1)",
    "trigger function": "SELECT note_change()",
    "no such table": "SELECT * FROM item_copy",
    "no such column": "SELECT nam FROM item",
    "no such schema": "SELECT * FROM other_schema.item",
    "no such function": "SELECT made_up()",
    "no such setting": "SELECT current_setting('twin.made_up')",
}
_NOWAIT: Final = "SELECT count(*) FROM (SELECT FROM {table} FOR UPDATE NOWAIT) AS locked"
_UPSERTS: Final[Mapping[str, str]] = {
    "key": "INSERT INTO customer VALUES (1, 'x', 'y') ON CONFLICT (id) DO UPDATE SET name = excluded.name"
    " RETURNING id || name || city",
    "nothing": "INSERT INTO seed VALUES (1, 1, 'x') ON CONFLICT DO NOTHING RETURNING 'inserted'",
}
_CHANGES: Final = (
    "CREATE TABLE probe_table (id serial PRIMARY KEY, n integer)",
    "CREATE TEMPORARY TABLE probe_temporary (n integer)",
    "CREATE UNLOGGED TABLE probe_unlogged (n integer)",
    "CREATE SCHEMA probe_schema",
    "CREATE TYPE probe_type AS ENUM ('a', 'b')",
    "CREATE DOMAIN probe_domain AS integer CHECK (value > 0)",
    "CREATE FUNCTION probe_function() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
    "CREATE FUNCTION probe_untrusted() RETURNS integer LANGUAGE c AS 'x', 'y'",
    "CREATE VIEW probe_view AS SELECT * FROM seed",
    "CREATE SEQUENCE probe_sequence",
    "CREATE INDEX probe_index ON seed (v)",
    "CREATE STATISTICS probe_statistics ON k, v FROM seed",
    "CREATE RULE probe_rule AS ON INSERT TO plain DO ALSO NOTHING",
    "CREATE EXTENSION probe_extension",
    "CREATE EVENT TRIGGER probe_trigger ON ddl_command_end EXECUTE FUNCTION note_change()",
    "CREATE PUBLICATION probe_publication",
    "CREATE PUBLICATION probe_publication FOR ALL TABLES",
    "CREATE FOREIGN DATA WRAPPER probe_wrapper",
    "CREATE ROLE probe_role",
    "CREATE LANGUAGE plpgsql",
    "ALTER TABLE seed ADD COLUMN probe integer DEFAULT 1",
    "ALTER TABLE measured DROP COLUMN at",
    "ALTER TABLE orders DISABLE TRIGGER ALL",
    "ALTER TABLE audited DISABLE TRIGGER audited_change",
    "ALTER TABLE item RENAME TO probe_item",
    "ALTER TABLE item OWNER TO pg_database_owner",
    "ALTER TABLE item ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE event DETACH PARTITION event_2025",
    "ALTER TABLE scratch SET LOGGED",
    "ALTER SEQUENCE ticket RESTART WITH 5",
    "ALTER FUNCTION note_change() OWNER TO CURRENT_USER",
    "ALTER ROLE CURRENT_USER SET work_mem = '5MB'",
    "ALTER ROLE CURRENT_USER CONNECTION LIMIT 5",
    "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC",
    "ALTER SYSTEM SET work_mem = '5MB'",
    "COMMENT ON TABLE item IS 'probe'",
    "GRANT SELECT ON item TO PUBLIC",
    "GRANT CREATE ON SCHEMA public TO PUBLIC",
    "REVOKE ALL ON item FROM CURRENT_USER",
    "TRUNCATE seed, customer, orders RESTART IDENTITY",
    "DROP TABLE event",
    "DROP FUNCTION note_change() CASCADE",
    "DROP SCHEMA public",
    "CLUSTER seed USING seed_k",
    "REINDEX TABLE seed",
    "REFRESH MATERIALIZED VIEW city_count",
    "LOCK TABLE orders IN ACCESS EXCLUSIVE MODE",
    "SELECT lo_create(0) > 0",
    "SELECT pg_notify('probe', 'x')",
    "SELECT pg_stat_reset()",
    "SELECT pg_reload_conf()",
    "SELECT pg_read_file('PG_VERSION')",
    "SET ROLE pg_read_all_data",
    "SET session_replication_role = replica",
    "SET LOCAL row_security = off",
    "COPY seed TO PROGRAM 'true'",
    "VACUUM seed",
)


def _errors(statements: Mapping[str, str]) -> Callable[[Session], Json]:
    def run(session: Session) -> Json:
        return {name: session.outcome(partial(session.lines, sql)) for name, sql in statements.items()}

    return run


def _unused(session: Session) -> Json:
    """Ask for the current values of sequences that the session has not used."""
    asked: dict[str, Json] = {
        name: session.outcome(partial(session.lines, f"SELECT currval('{name}')")) for name in SEQUENCES
    }
    return asked | {"lastval": session.outcome(partial(session.lines, "SELECT lastval()"))}


def _updated(session: Session, table: str) -> Json:
    return session.execute(f"UPDATE {table} SET {UPDATES[table]}")


def _update_returning(session: Session, table: str) -> Json:
    return session.lines(f"UPDATE {table} AS t SET {UPDATES[table]} RETURNING left(t::text, 50)")


def _delete_returning(session: Session, table: str) -> Json:
    return session.lines(f"DELETE FROM {table} AS t RETURNING left(t::text, 50)")


def _trigger_effects(session: Session) -> Json:
    """Fire the trigger, and count what it wrote."""
    before = session.rows("SELECT count(*) FROM audit_entry")[0][0]
    tags: list[Json] = [
        session.execute("UPDATE audited SET state = 'probed'"),
        session.execute("INSERT INTO audited VALUES (9002, 'probed')"),
    ]
    written = session.rows("SELECT count(*), count(DISTINCT id) FROM audit_entry WHERE text = 'probed'")[0]
    return {"tags": tags, "before": before, "written": session.names.plain(written)}


def _cascade(session: Session) -> Json:
    session.execute("INSERT INTO empty_one (id, label) OVERRIDING SYSTEM VALUE VALUES (9003, 'x')")
    session.execute("INSERT INTO empty_two (id, empty_one_id) VALUES (9003, 9003), (9004, 9003)")
    deleted = session.execute("DELETE FROM empty_one WHERE id = 9003")
    return [deleted, *session.lines("SELECT count(*) FROM empty_two WHERE empty_one_id = 9003")]


def _transaction_status(session: Session) -> Json:
    return session.lines(
        "SELECT txid_status(txid_current()) UNION ALL SELECT pg_xact_status(pg_current_xact_id())"
    )


def _inbox(session: Session) -> Json:
    """Listen to some channels, and return the notifications that wait."""
    for channel in ("probe", "events", "cache"):
        session.execute(f'LISTEN "{channel}"')
    session.execute("SELECT 1")
    waiting = [note.payload for note in session.connection.notifies(timeout=0)]
    session.execute("UNLISTEN *")
    return session.names.plain(waiting)


def _next_values(session: Session, name: str) -> Json:
    return session.lines(
        f"SELECT nextval('{name}') UNION ALL SELECT nextval('{name}') UNION ALL SELECT currval('{name}')"
    )


def _new_rows(session: Session) -> Json:
    """Insert rows with their default values. A failed insert leaves a gap."""
    inserts = {
        "item": "INSERT INTO item (name) VALUES ('a'), ('b') RETURNING item::text",
        "item, failed": "INSERT INTO item (name) VALUES (NULL)",
        "item, after the gap": "INSERT INTO item (name) VALUES ('c') RETURNING item::text",
        "empty_one": "INSERT INTO empty_one DEFAULT VALUES RETURNING empty_one::text",
        "empty_two": "INSERT INTO empty_two DEFAULT VALUES RETURNING empty_two::text",
        "audited": "INSERT INTO audited VALUES (9005, 'changed') RETURNING audited::text",
        "audit_entry": "SELECT t::text FROM audit_entry AS t ORDER BY id DESC LIMIT 1",
        "hashed": "INSERT INTO hashed DEFAULT VALUES RETURNING hashed::text",
        "lastval": "SELECT lastval()",
    }
    return {name: session.outcome(partial(session.lines, sql)) for name, sql in inserts.items()}


def _changes(session: Session) -> Json:
    """Try statements that change definitions, roll each back, and return the code of its error."""
    session.execute("SET lock_timeout = '5s'")
    outcomes: dict[str, Json] = {}
    for statement in _CHANGES:
        with session.connection.transaction(force_rollback=True):
            outcome = session.outcome(partial(session.execute, statement))
        outcomes[statement] = outcome["error"] if isinstance(outcome, dict) else outcome
    return outcomes


def _refreshed(session: Session) -> Json:
    with session.connection.transaction(force_rollback=True):
        session.execute("REFRESH MATERIALIZED VIEW city_count")
        return session.lines("SELECT c::text FROM city_count AS c")


PROBES: Final = (
    Probe(
        name="behaviour.unused_sequences",
        observes="the errors of currval and lastval before a session has used a sequence",
        run=_unused,
    ),
    Probe(
        name="behaviour.counts_of_rows",
        observes="count(*) of each table",
        run=for_each(STORED, lambda session, table: session.lines(f"SELECT count(*) FROM {table}")),
    ),
    Probe(
        name="behaviour.missing_names",
        observes="names that to_regclass finds, which migration tools use to see if they ran before",
        run=Query(
            "SELECT name, to_regclass(name) IS NOT NULL AS found FROM unnest(ARRAY['alembic_version', 'django_migrations',"
            " 'schema_migrations', 'flyway_schema_history', 'databasechangelog', 'item', 'probe_table']) AS name",
            key=1,
        ),
    ),
    Probe(
        name="writes.violations",
        observes="errors of violated constraints and of unknown names, with their messages, details and hints",
        run=_errors(_VIOLATIONS),
        stage=Stage.ROLLED_BACK,
    ),
    Probe(
        name="writes.locked_rows",
        observes="all rows can be locked at once: FOR UPDATE NOWAIT",
        run=for_each(STORED, lambda session, table: session.lines(_NOWAIT.replace("{table}", table))),
        stage=Stage.ROLLED_BACK,
    ),
    Probe(
        name="writes.upserts",
        observes="results of ON CONFLICT",
        run=_errors(_UPSERTS),
        stage=Stage.ROLLED_BACK,
    ),
    Probe(
        name="writes.cascade",
        observes="rows that a cascading foreign key deletes",
        run=_cascade,
        stage=Stage.ROLLED_BACK,
    ),
    Probe(
        name="writes.transaction_status",
        observes="the status of the transaction itself",
        run=_transaction_status,
        stage=Stage.ROLLED_BACK,
    ),
    Probe(
        name="writes.trigger_effects",
        observes="rows that the trigger writes",
        run=_trigger_effects,
        stage=Stage.ROLLED_BACK,
    ),
    Probe(
        name="writes.updated_rows",
        observes="numbers of rows of UPDATE without WHERE",
        run=for_each(UPDATES, _updated),
        stage=Stage.ROLLED_BACK,
    ),
    Probe(
        name="writes.update_returning",
        observes="order of the rows of UPDATE RETURNING",
        run=for_each(UPDATES, _update_returning),
        stage=Stage.ROLLED_BACK,
    ),
    Probe(
        name="writes.delete_returning",
        observes="order of the rows of DELETE RETURNING, and errors of foreign keys",
        run=for_each((*UPDATES, "audit_entry", "scratch"), _delete_returning),
        stage=Stage.ROLLED_BACK,
    ),
    Probe(
        name="changes.inbox",
        observes="notifications that wait for a new session: none",
        run=_inbox,
        stage=Stage.CHANGES,
        must_be_empty=True,
    ),
    Probe(
        name="changes.next_values",
        observes="the next values of all sequences, and currval",
        run=for_each(SEQUENCES, _next_values),
        stage=Stage.CHANGES,
    ),
    Probe(
        name="changes.new_rows",
        observes="default values and identities of new rows, the gap after a failed one, and lastval",
        run=_new_rows,
        stage=Stage.CHANGES,
    ),
    Probe(
        name="changes.refreshed_view",
        observes="rows of the materialized view after REFRESH",
        run=_refreshed,
        stage=Stage.CHANGES,
    ),
    Probe(
        name="changes.definitions",
        observes="results of statements that change definitions, use rights or disturb others, each rolled back",
        run=_changes,
        stage=Stage.CHANGES,
    ),
)
