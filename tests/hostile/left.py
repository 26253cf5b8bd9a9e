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
from tests.hostile.attack import OF_DATABASE, OF_SCHEMA, Afterwards, Attack, Outcome, Scene, cleaned

TRAPPED: Final = "trapped_by_a_holder"
_TRAP: Final = f"""
BEGIN
    RESET ROLE;
    EXECUTE 'CREATE ROLE {TRAPPED} SUPERUSER';
EXCEPTION WHEN OTHERS THEN
    NULL;
END;
"""
CONTROL_LOCK: Final = 0x66726573_68646201
"""Advisory lock that replicas used to take at a common start, in a database that may be open to holders."""


def _own_login(scene: Scene) -> None:
    scene.left_open("BEGIN", "ALTER ROLE CURRENT_USER PASSWORD 'mine'")


def _own_login_prepared(scene: Scene) -> None:
    scene.run("BEGIN; ALTER ROLE CURRENT_USER PASSWORD 'mine'; PREPARE TRANSACTION '@login@'")


def _own_login_again_and_again(scene: Scene) -> Afterwards:
    """Several sessions connect again after each termination, until the login is refused."""
    with psycopg.connect(scene.me.url) as connection:
        password = connection.info.password
    url, statement = scene.me.url, f"ALTER ROLE CURRENT_USER PASSWORD '{password}'".encode()
    begun = threading.Barrier(4)

    def insist() -> None:
        first = True
        while True:
            try:
                with psycopg.connect(url, autocommit=True) as connection:
                    if first:
                        begun.wait()
                    first = False
                    while True:
                        _try(connection, statement)
            except psycopg.OperationalError as error:
                if "FATAL" in str(error) and "terminating" not in str(error):
                    return

    threads = [threading.Thread(target=insist) for _ in range(3)]
    for one in threads:
        one.start()
    begun.wait()

    def all_are_out() -> None:
        for one in threads:
            one.join()

    return all_are_out


def _try(connection: psycopg.Connection, statement: bytes) -> None:
    with suppress(psycopg.errors.InternalError):  # "tuple concurrently updated"
        connection.execute(statement)


def _own_database(scene: Scene) -> None:
    scene.left_open(
        "BEGIN", "ALTER DATABASE @database@ CONNECTION LIMIT 7", "COMMENT ON DATABASE @database@ IS 'mine'"
    )


def _tables_and_catalogs(scene: Scene) -> None:
    scene.left_open(
        "BEGIN",
        "LOCK TABLE pg_class, pg_attribute, pg_proc, pg_namespace, pg_database IN ACCESS SHARE MODE",
        "LOCK TABLE note, person IN ACCESS EXCLUSIVE MODE",
        "CREATE TABLE mine ()",
    )


def _neighbours_role(scene: Scene) -> None:
    """A role that an open grant names cannot be dropped, so the rebuild of the neighbour's database waits for it."""
    scene.left_open("BEGIN", "GRANT SELECT ON note TO @neighbour@")
    scene.neighbour_finds_the_template()


def _neighbours_role_prepared(scene: Scene) -> None:
    scene.run("BEGIN; GRANT SELECT ON note TO @neighbour@; PREPARE TRANSACTION '@login@'")
    scene.neighbour_finds_the_template()


def _neighbours_role_in_a_closed_database(scene: Scene) -> None:
    scene.run(
        "GRANT SELECT ON note TO @neighbour@",
        "CREATE POLICY mine ON note TO @neighbour@",
        "ALTER DATABASE @database@ SET local_preload_libraries = 'not_there'",
        "ALTER DATABASE @database@ SET statement_timeout = '1ms'",
        "ALTER DATABASE @database@ CONNECTION LIMIT 0",
    )
    scene.elsewhere("postgres", "ALTER DATABASE @database@ ALLOW_CONNECTIONS false")
    scene.neighbour_finds_the_template()


def _unfinished_copy(scene: Scene) -> None:
    connection = scene.left_open("BEGIN")
    connection.pgconn.exec_(b"COPY note (body) FROM STDIN")
    scene.neighbour_finds_the_template()


def _unread_answer(scene: Scene) -> None:
    connection = scene.left_open()
    connection.pgconn.send_query(b"SELECT repeat('x', 1000000) FROM generate_series(1, 100)")
    scene.neighbour_finds_the_template()


def _table_in_anothers_hands(scene: Scene) -> None:
    """The neighbour got a right on the table and locked it. The right is revoked by now."""
    scene.run(
        "GRANT USAGE ON SCHEMA @schema@ TO @neighbour@",
        "GRANT ALL ON note TO @neighbour@",
        "INSERT INTO note (body) VALUES ('mine')",
    )
    neighbour = scene.as_neighbour()
    neighbour.execute(f"BEGIN; LOCK TABLE {scene.me.schema}.note IN EXCLUSIVE MODE")
    scene.run("REVOKE USAGE ON SCHEMA @schema@ FROM @neighbour@", "REVOKE ALL ON note FROM @neighbour@")


def _neighbour_let_in(scene: Scene) -> Afterwards:
    """A neighbour stays in the database after its right to connect was revoked, under the service's application name."""
    scene.run("GRANT CONNECT ON DATABASE @database@ TO @neighbour@")
    spy = scene.as_neighbour(scene.me.database, application_name="freshdb")
    spy.execute("LISTEN secrets; SELECT pg_advisory_lock(1)")
    scene.run("REVOKE CONNECT ON DATABASE @database@ FROM @neighbour@")

    def is_out() -> None:
        try:
            spy.execute("SELECT 1")
        except psycopg.OperationalError:
            return
        raise AssertionError("the neighbour is still in")

    return is_out


def _service_locks(scene: Scene) -> None:
    """Take the service's advisory locks in the database where it takes them."""
    pool = uuid4()
    key = int.from_bytes(pool.bytes[-8:], signed=True)
    scene.elsewhere("postgres", f"SELECT pg_advisory_lock({key}), pg_advisory_lock({CONTROL_LOCK})")
    asyncio.run(_works_without_them(scene, pool))


async def _works_without_them(scene: Scene, pool: UUID) -> None:
    binaries = postgres_binaries(18)
    assert binaries is not None
    names = scene.names
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


def _every_setting(scene: Scene) -> None:
    """Set the most harmful value of every setting, for the database and for the login."""
    targets = ["ALTER ROLE @login@", "ALTER ROLE @login@ IN DATABASE @database@"]
    if scene.me.schema is None:
        targets.append("ALTER DATABASE @database@")
    with psycopg.connect(scene.me.url, autocommit=True) as connection:
        for target in targets:
            leave_every_setting(connection, scene.filled(target))


def leave_every_setting(connection: psycopg.Connection, target: str) -> set[str]:
    """Set every setting to a value other than its own, and return the names of those that could be set."""
    left = set()
    known = connection.execute(
        "SELECT name, vartype, setting, min_val, max_val, enumvals FROM pg_settings "
        "WHERE context = 'user' AND name NOT IN ('role', 'session_authorization') AND name !~ '^transaction_'"
    ).fetchall()
    for name, kind, now, least, most, words in known:
        values = {
            "bool": ["off" if now == "on" else "on"],
            "enum": [one for one in words or () if one != now],
        }.get(kind, [one for one in (least, most) if one not in {None, now}])
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
            left.add(name)
            break
    return left


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


def _shadows(scene: Scene) -> Afterwards:
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
    if scene.me.schema is None:
        statements.append(f"ALTER DATABASE @database@ {path}")
    scene.run(*statements, "INSERT INTO note (body) VALUES ('bait')")
    return lambda: _was_not_trapped(scene)


def _traps_on_tables(scene: Scene) -> Afterwards:
    """Create code that runs on deletes, inserts, truncates, vacuums and analyses."""
    scene.run(*_TABLE_TRAPS)
    return lambda: _was_not_trapped(scene)


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


def _was_not_trapped(scene: Scene) -> None:
    assert scene.superuser(f"SELECT count(*) FROM pg_roles WHERE rolname = '{TRAPPED}'") == 0


def _for_the_next_holder(scene: Scene) -> None:
    scene.run(
        "CREATE OR REPLACE FUNCTION count_people() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT 0::bigint'",
        "CREATE FUNCTION @schema@.lower(text) RETURNS text LANGUAGE sql SECURITY DEFINER AS $$SELECT 'mine'$$",
        "CREATE VIEW later AS SELECT * FROM person",
        "GRANT ALL ON ALL TABLES IN SCHEMA @schema@ TO @neighbour@",
        "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO @neighbour@",
    )


def _notifications(scene: Scene) -> None:
    """A listener in a transaction keeps all notifications of the server in the queue."""
    listener = scene.left_open("LISTEN mine", "BEGIN", "SELECT 1")
    scene.run("SELECT pg_notify('mine', i || repeat('x', 7000)) FROM generate_series(1, 1000) i")
    assert listener.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS


def _messages(scene: Scene) -> None:
    scene.run(
        "SELECT pg_logical_emit_message(false, 'mine', 'x')",
        "SELECT pg_notify('mine', 'x')",
        "SELECT txid_current()",
    )


def _service_sessions(scene: Scene) -> None:
    """The holder sees that the service's sessions exist, and nothing of their statements."""
    connection = scene.left_open()
    seen = connection.execute(
        "SELECT DISTINCT query FROM pg_stat_activity WHERE usesysid IS NOT NULL AND usename <> session_user"
    ).fetchall()
    assert {text for (text,) in seen} <= {"<insufficient privilege>"}


IN_THE_WAY: Final = (
    cleaned("keep its own login locked in an open transaction", _own_login),
    cleaned("keep its own login locked in a prepared transaction", _own_login_prepared),
    cleaned("change its own login again and again while it is closed", _own_login_again_and_again),
    cleaned("keep its own database locked in an open transaction", _own_database, isolations=OF_DATABASE),
    cleaned("keep tables and catalogs locked", _tables_and_catalogs),
    cleaned("keep a neighbour's login from being dropped, by a grant in an open transaction", _neighbours_role),
    cleaned("keep a neighbour's login from being dropped, by a grant in a prepared transaction", _neighbours_role_prepared),
    cleaned("name a neighbour's login in a database that accepts no connections", _neighbours_role_in_a_closed_database,
            isolations=OF_DATABASE),
    cleaned("keep every database from being dropped, by a COPY that waits for its client", _unfinished_copy,
            isolations=OF_DATABASE, slow=True),
    cleaned("keep every database from being dropped, by an answer that is not read", _unread_answer,
            isolations=OF_DATABASE, slow=True),
    cleaned("leave its own table locked by a neighbour", _table_in_anothers_hands, isolations=OF_SCHEMA),
    cleaned("let a neighbour into the database, who stays there under the service's name", _neighbour_let_in,
            isolations=OF_DATABASE),
    cleaned("take the advisory locks that the service uses", _service_locks, isolations=OF_SCHEMA),
)  # fmt: skip

TRAPS: Final = (
    cleaned("leave the worst value of every setting, for the database and for the login", _every_setting),
    cleaned("leave functions, operators and views that shadow PostgreSQL's own", _shadows),
    cleaned("leave triggers, policies, checks, statistics and index functions that run the holder's code", _traps_on_tables),
    cleaned("leave functions, views and grants for the next holder", _for_the_next_holder),
    cleaned("fill the queue of notifications", _notifications),
    Attack("write messages into the write-ahead log", Outcome.IN_VAIN, act=_messages),
    Attack("watch the service's sessions", Outcome.IN_VAIN, act=_service_sessions),
)  # fmt: skip

LEFT: Final[tuple[Attack, ...]] = (*IN_THE_WAY, *TRAPS)
