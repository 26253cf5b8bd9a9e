"""Actions and leftovers of a lease's login that neither the next holder nor a neighbour may notice."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import Final
from uuid import UUID, uuid4

import psycopg

from freshdb_service.embedded import postgres_binaries
from freshdb_service.errors import FreshdbError
from freshdb_service.postgres import (
    Server,
    ServerOptions,
    drop_shared,
    ensure_control_database,
    prepare_shared,
)
from tests.hostile.attack import (
    DATABASE_ONLY,
    SCHEMA_ONLY,
    Attack,
    AttackContext,
    CheckAfterRelease,
    Outcome,
    cleaned,
)

TRAP_ROLE: Final = "trapped_by_a_holder"
_TRAP: Final = f"""
BEGIN
    RESET ROLE;
    EXECUTE 'CREATE ROLE {TRAP_ROLE} SUPERUSER';
EXCEPTION WHEN OTHERS THEN
    NULL;
END;
"""
CONTROL_LOCK: Final = 0x66726573_68646201
"""Advisory lock that replicas used to take at a common start, in a database that may be open to holders."""


def _own_login(context: AttackContext) -> None:
    context.run_and_stay_connected("BEGIN", "ALTER ROLE CURRENT_USER PASSWORD 'mine'")


def _own_login_prepared(context: AttackContext) -> None:
    context.run("BEGIN; ALTER ROLE CURRENT_USER PASSWORD 'mine'; PREPARE TRANSACTION '@login@'")


def _own_login_repeatedly(context: AttackContext) -> CheckAfterRelease:
    """Several sessions connect again after each termination, until the login is refused."""
    with psycopg.connect(context.attacker.url) as connection:
        password = connection.info.password
    url, statement = context.attacker.url, f"ALTER ROLE CURRENT_USER PASSWORD '{password}'".encode()
    begun = threading.Barrier(4)

    def reconnect_repeatedly() -> None:
        first = True
        while True:
            try:
                with psycopg.connect(url, autocommit=True) as connection:
                    if first:
                        begun.wait()
                    first = False
                    while True:
                        _execute(connection, statement)
            except psycopg.OperationalError as error:
                if "FATAL" in str(error) and "terminating" not in str(error):
                    return

    threads = [threading.Thread(target=reconnect_repeatedly) for _ in range(3)]
    for one in threads:
        one.start()
    begun.wait()

    def check_all_are_disconnected() -> None:
        for one in threads:
            one.join()

    return check_all_are_disconnected


def _execute(connection: psycopg.Connection, statement: bytes) -> None:
    with suppress(psycopg.errors.InternalError):  # "tuple concurrently updated"
        connection.execute(statement)


def _own_database(context: AttackContext) -> None:
    context.run_and_stay_connected(
        "BEGIN", "ALTER DATABASE @database@ CONNECTION LIMIT 7", "COMMENT ON DATABASE @database@ IS 'mine'"
    )


def _tables_and_catalogs(context: AttackContext) -> None:
    context.run_and_stay_connected(
        "BEGIN",
        "LOCK TABLE pg_class, pg_attribute, pg_proc, pg_namespace, pg_database IN ACCESS SHARE MODE",
        "LOCK TABLE note, person IN ACCESS EXCLUSIVE MODE",
        "CREATE TABLE mine ()",
    )


def _neighbours_role(context: AttackContext) -> None:
    """A role that an open grant names cannot be dropped, so the rebuild of the neighbour's database waits for it."""
    context.run_and_stay_connected("BEGIN", "GRANT SELECT ON note TO @neighbour@")
    context.check_neighbour_is_clean()


def _neighbours_role_prepared(context: AttackContext) -> None:
    context.run("BEGIN; GRANT SELECT ON note TO @neighbour@; PREPARE TRANSACTION '@login@'")
    context.check_neighbour_is_clean()


def _neighbours_role_in_a_closed_database(context: AttackContext) -> None:
    context.run(
        "GRANT SELECT ON note TO @neighbour@",
        "CREATE POLICY mine ON note TO @neighbour@",
        "ALTER DATABASE @database@ SET local_preload_libraries = 'not_there'",
        "ALTER DATABASE @database@ SET statement_timeout = '1ms'",
        "ALTER DATABASE @database@ CONNECTION LIMIT 0",
    )
    context.run_in_database("postgres", "ALTER DATABASE @database@ ALLOW_CONNECTIONS false")
    context.check_neighbour_is_clean()


def _unfinished_copy(context: AttackContext) -> None:
    connection = context.run_and_stay_connected("BEGIN")
    connection.pgconn.exec_(b"COPY note (body) FROM STDIN")
    context.check_neighbour_is_clean()


def _unread_answer(context: AttackContext) -> None:
    connection = context.run_and_stay_connected()
    connection.pgconn.send_query(b"SELECT repeat('x', 1000000) FROM generate_series(1, 100)")
    context.check_neighbour_is_clean()


def _table_locked_by_neighbour(context: AttackContext) -> None:
    """The neighbour got a right on the table and locked it. The right is revoked by now."""
    context.run(
        "GRANT USAGE ON SCHEMA @schema@ TO @neighbour@",
        "GRANT ALL ON note TO @neighbour@",
        "INSERT INTO note (body) VALUES ('mine')",
    )
    neighbour = context.as_neighbour()
    neighbour.execute(f"BEGIN; LOCK TABLE {context.attacker.schema}.note IN EXCLUSIVE MODE")
    context.run("REVOKE USAGE ON SCHEMA @schema@ FROM @neighbour@", "REVOKE ALL ON note FROM @neighbour@")


def _neighbour_with_connect_right(context: AttackContext) -> CheckAfterRelease:
    """A neighbour stays in the database after its right to connect was revoked, under the service's application name."""
    context.run("GRANT CONNECT ON DATABASE @database@ TO @neighbour@")
    spy = context.as_neighbour(context.attacker.database, application_name="freshdb")
    spy.execute("LISTEN secrets; SELECT pg_advisory_lock(1)")
    context.run("REVOKE CONNECT ON DATABASE @database@ FROM @neighbour@")

    def check_neighbour_is_disconnected() -> None:
        try:
            spy.execute("SELECT 1")
        except psycopg.OperationalError:
            return
        raise AssertionError("the neighbour is still connected")

    return check_neighbour_is_disconnected


def _service_locks(context: AttackContext) -> None:
    """Take the service's advisory locks in the database where it takes them."""
    pool = uuid4()
    key = int.from_bytes(pool.bytes[-8:], signed=True)
    context.run_in_database("postgres", f"SELECT pg_advisory_lock({key}), pg_advisory_lock({CONTROL_LOCK})")
    asyncio.run(_check_service_works_without_the_locks(context, pool))


async def _check_service_works_without_the_locks(context: AttackContext, pool: UUID) -> None:
    binaries = postgres_binaries(18)
    assert binaries is not None
    names = context.names
    options = ServerOptions(
        prefix=names["prefix"], pg_dump=binaries / "pg_dump", command_timeout_seconds=20, pool_size=2
    )
    await ensure_control_database(names["service_dsn"], names["control"], options=options)
    server = await Server.open(
        "main", names["service_dsn"], installation=UUID(names["installation"]), options=options
    )
    try:
        for last in (False, False, True):
            try:
                await prepare_shared(server, pool, names["template"])
                break
            except FreshdbError as error:
                # The service's reconciler may drop the database in between, because no row refers to it.
                if last or "another worker" in error.message:
                    raise
        await drop_shared(server, pool)
    finally:
        await server.close()


def _every_setting(context: AttackContext) -> None:
    """Set the most harmful value of every setting, for the database and for the login."""
    targets = ["ALTER ROLE @login@", "ALTER ROLE @login@ IN DATABASE @database@"]
    if context.attacker.schema is None:
        targets.append("ALTER DATABASE @database@")
    with psycopg.connect(context.attacker.url, autocommit=True) as connection:
        for target in targets:
            change_every_setting(connection, context.with_names(target))


def change_every_setting(connection: psycopg.Connection, target: str) -> set[str]:
    """Set every setting to a value other than its own, and return the names of those that could be set."""
    changed = set()
    known = connection.execute(
        "SELECT name, vartype, setting, min_val, max_val, enumvals FROM pg_settings "
        "WHERE context = 'user' AND name NOT IN ('role', 'session_authorization') AND name !~ '^transaction_'"
    ).fetchall()
    for name, kind, current, min_value, max_value, enum_values in known:
        values = {
            "bool": ["off" if current == "on" else "on"],
            "enum": [one for one in enum_values or () if one != current],
        }.get(kind, [one for one in (min_value, max_value) if one not in {None, current}])
        if kind == "string":
            values = [
                "not_there",
                "C",
                "UTC",
                "german",
                "latin1",
                "pg_catalog.simple",
                "self",
                "zstd",
                "view",
            ]
        for value in values:
            try:
                connection.execute(f"{target} SET {name} = '{value}'".encode())
            except psycopg.Error:
                continue
            changed.add(name)
            break
    return changed


_SHADOWED: Final = {
    "starts_with(name, text)": "boolean",
    "shobj_description(oid, name)": "text",
    "obj_description(oid, name)": "text",
    "pg_stat_get_tuples_inserted(oid)": "bigint",
    "pg_stat_get_blocks_fetched(oid)": "bigint",
    "pg_describe_object(regclass, oid, integer)": "text",
    "has_table_privilege(oid, text)": "boolean",
    "has_database_privilege(text, oid, text)": "boolean",
    "pg_get_userbyid(oid)": "name",
    "to_regnamespace(text)": "regnamespace",
    "concat_ws(text, text)": "text",
    "quote_ident(text)": "text",
    "age(xid)": "integer",
    "md5(text)": "text",
}
_OPERATORS: Final = (
    ("=", "oid", "oid"), ("=", "name", "text"), ("=", "name", "name"), ("=", "text", "text"), ("<>", "oid", "oid"),
    ("~", "name", "text"), ("!~", "name", "text"), ("->", "name", "name"), ("||", "text", "text"),
)  # fmt: skip


def _shadows(context: AttackContext) -> CheckAfterRelease:
    """Create functions, operators and views named like PostgreSQL's own, in a schema that precedes it in ``search_path``."""
    statements = []
    for signature, returns in _SHADOWED.items():
        statements.append(
            f"CREATE FUNCTION @schema@.{signature} RETURNS {returns} LANGUAGE plpgsql AS "
            f"$$ BEGIN {_TRAP} RETURN NULL; END $$"
        )
    for number, (operator, left, right) in enumerate(_OPERATORS):
        statements += [
            (
                f"CREATE FUNCTION @schema@.trap{number}({left}, {right}) RETURNS boolean LANGUAGE plpgsql AS "
                f"$$ BEGIN {_TRAP} RETURN false; END $$"
            ),
            (
                f"CREATE OPERATOR @schema@.{operator} (LEFTARG = {left}, RIGHTARG = {right}, "
                f"FUNCTION = @schema@.trap{number})"
            ),
        ]
    for view in (
        "pg_database",
        "pg_roles",
        "pg_class",
        "pg_locks",
        "pg_stat_activity",
        "pg_namespace",
        "pg_settings",
    ):
        statements.append(f"CREATE VIEW @schema@.{view} AS SELECT * FROM pg_catalog.{view} WHERE false")
    path = "SET search_path = @schema@, pg_catalog"
    statements += [f"ALTER ROLE @login@ {path}", f"ALTER ROLE @login@ IN DATABASE @database@ {path}"]
    if context.attacker.schema is None:
        statements.append(f"ALTER DATABASE @database@ {path}")
    context.run(*statements, "INSERT INTO note (body) VALUES ('bait')")
    return lambda: _check_trap_did_not_run(context)


def _traps_on_tables(context: AttackContext) -> CheckAfterRelease:
    """Create code that runs on deletes, inserts, truncates, vacuums and analyses."""
    context.run(*_TABLE_TRAPS)
    return lambda: _check_trap_did_not_run(context)


_TABLE_TRAPS: Final = (
    f"CREATE FUNCTION trap() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {_TRAP} RETURN OLD; END $$",
    "INSERT INTO note (body) SELECT repeat('bait', 100) FROM generate_series(1, 2000)",
    f"CREATE FUNCTION trapped(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN {_TRAP} RETURN $1; END $$",
    "CREATE INDEX ON note (trapped(body))",
    "CREATE STATISTICS trap ON trapped(body), id FROM note",
    "ALTER TABLE note ADD CHECK (trapped(body) = body)",
    "CREATE POLICY trap ON note USING (trapped(body) = body)",
    "ALTER TABLE note FORCE ROW LEVEL SECURITY",
    "CREATE TRIGGER trap_rows BEFORE DELETE OR INSERT OR UPDATE ON note FOR EACH ROW EXECUTE FUNCTION trap()",
    "CREATE TRIGGER trap_truncate BEFORE TRUNCATE ON note EXECUTE FUNCTION trap()",
    "ALTER TABLE note ENABLE ALWAYS TRIGGER trap_rows",
    "ALTER TABLE note ENABLE ALWAYS TRIGGER trap_truncate",
)


def _check_trap_did_not_run(context: AttackContext) -> None:
    assert context.superuser(f"SELECT count(*) FROM pg_roles WHERE rolname = '{TRAP_ROLE}'") == 0


def _for_the_next_holder(context: AttackContext) -> None:
    context.run(
        "CREATE OR REPLACE FUNCTION count_people() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT 0::bigint'",
        "CREATE FUNCTION @schema@.lower(text) RETURNS text LANGUAGE sql SECURITY DEFINER AS $$SELECT 'mine'$$",
        "CREATE VIEW later AS SELECT * FROM person",
        "GRANT ALL ON ALL TABLES IN SCHEMA @schema@ TO @neighbour@",
        "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO @neighbour@",
    )


def _notifications(context: AttackContext) -> None:
    """A listener in a transaction keeps all notifications of the server in the queue."""
    listener = context.run_and_stay_connected("LISTEN mine", "BEGIN", "SELECT 1")
    context.run("SELECT pg_notify('mine', i || repeat('x', 7000)) FROM generate_series(1, 1000) i")
    assert listener.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS


def _messages(context: AttackContext) -> None:
    context.run(
        "SELECT pg_logical_emit_message(false, 'mine', 'x')",
        "SELECT pg_notify('mine', 'x')",
        "SELECT txid_current()",
    )


def _service_sessions(context: AttackContext) -> None:
    """The holder sees that the service's sessions exist, and nothing of their statements."""
    connection = context.run_and_stay_connected()
    seen = connection.execute(
        "SELECT DISTINCT query FROM pg_stat_activity WHERE usesysid IS NOT NULL AND usename <> session_user"
    ).fetchall()
    assert {text for (text,) in seen} <= {"<insufficient privilege>"}


BLOCKING: Final = (
    cleaned("keep its own login locked in an open transaction", _own_login),
    cleaned("keep its own login locked in a prepared transaction", _own_login_prepared),
    cleaned("change its own login again and again while it is closed", _own_login_repeatedly),
    cleaned("keep its own database locked in an open transaction", _own_database, isolations=DATABASE_ONLY),
    cleaned("keep tables and catalogs locked", _tables_and_catalogs),
    cleaned("keep a neighbour's login from being dropped, by a grant in an open transaction", _neighbours_role),
    cleaned("keep a neighbour's login from being dropped, by a grant in a prepared transaction", _neighbours_role_prepared),
    cleaned("name a neighbour's login in a database that accepts no connections", _neighbours_role_in_a_closed_database,
            isolations=DATABASE_ONLY),
    cleaned("keep every database from being dropped, by a COPY that waits for its client", _unfinished_copy,
            isolations=DATABASE_ONLY, slow=True),
    cleaned("keep every database from being dropped, by an answer that is not read", _unread_answer,
            isolations=DATABASE_ONLY, slow=True),
    cleaned("leave its own table locked by a neighbour", _table_locked_by_neighbour, isolations=SCHEMA_ONLY),
    cleaned("grant access to a neighbour, which stays connected under the service's application name",
            _neighbour_with_connect_right, isolations=DATABASE_ONLY),
    cleaned("take the advisory locks that the service uses", _service_locks, isolations=SCHEMA_ONLY),
)  # fmt: skip

TRAPS: Final = (
    cleaned("change every setting, for the database and for the login", _every_setting),
    cleaned("leave functions, operators and views that shadow PostgreSQL's own", _shadows),
    cleaned("leave triggers, policies, checks, statistics and index functions that run the holder's code", _traps_on_tables),
    cleaned("leave functions, views and grants for the next holder", _for_the_next_holder),
    cleaned("fill the queue of notifications", _notifications),
    Attack("write messages into the write-ahead log", Outcome.NO_EFFECT, function=_messages),
    Attack("watch the service's sessions", Outcome.NO_EFFECT, function=_service_sessions),
)  # fmt: skip

ACCEPTED: Final[tuple[Attack, ...]] = (*BLOCKING, *TRAPS)
