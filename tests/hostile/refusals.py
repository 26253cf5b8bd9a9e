"""Actions that PostgreSQL refuses to a lease's login."""

from __future__ import annotations

import socket
import struct
from typing import Final
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.hostile.attack import SCHEMA_ONLY, Attack, AttackContext, refused, refused_by_function
from tests.services import with_database

NOT_AVAILABLE: Final = "0A000"
NO_SUCH_FILE: Final = "58P01"
UNDEFINED_OBJECT: Final = "42704"
_CONNECTION_REFUSED: Final = (
    "FATAL:.*(permission denied|not currently accepting connections|replication|WAL sender|max_wal_senders)"
)


def _check_connection_is_refused(context: AttackContext, url: str, **settings: str) -> None:
    with (
        pytest.raises(psycopg.OperationalError, match=_CONNECTION_REFUSED),
        psycopg.connect(make_conninfo(url, **settings)) as connection,
    ):
        context.holder.keep(connection)


def _other_databases(context: AttackContext) -> None:
    for name in ("database_of_another", "shared_of_another"):
        if (database := context.names[name]) != context.attacker.database:
            _check_connection_is_refused(context, with_database(context.attacker.url, database))


def _templates(context: AttackContext) -> None:
    _check_connection_is_refused(context, with_database(context.attacker.url, context.names["template"]))
    _check_connection_is_refused(context, with_database(context.attacker.url, "template0"))


def _control_plane(context: AttackContext) -> None:
    _check_connection_is_refused(context, with_database(context.attacker.url, context.names["control"]))


def _replication(context: AttackContext) -> None:
    for kind in ("database", "true"):
        _check_connection_is_refused(context, context.attacker.url, replication=kind)


def _postgres(context: AttackContext) -> None:
    """Managed servers that are not embedded admit every login to these databases. A holder can create nothing there."""
    for database in ("postgres", "template1"):
        connection = context.run_in_database(database)
        for statement in (
            "CREATE TABLE public.mine ()",
            "CREATE SCHEMA mine",
            "CREATE FUNCTION public.mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
            "CREATE EXTENSION citext",
            f"ALTER DATABASE {database} SET search_path = mine",
            f"ALTER DATABASE {database} CONNECTION LIMIT 0",
        ):
            try:
                connection.execute(statement.encode())
            except psycopg.Error as error:
                assert error.sqlstate in {"42501", NOT_AVAILABLE}, f"{statement}: {error}"  # noqa: PT017 - which one
            else:
                raise AssertionError(f"{statement} was not refused in {database}")
    context.holder.leave()


def _sees_no_query(context: AttackContext) -> None:
    with context.as_neighbour() as other_session:
        other_session.execute("SELECT 'a secret'")
        connection = context.run_and_stay_connected()
        texts = connection.execute(
            "SELECT usesysid IS NOT NULL AND usename <> session_user, query FROM pg_stat_activity WHERE usesysid IS NOT NULL"
        ).fetchall()
        others = {text for theirs, text in texts if theirs}
        assert others == {"<insufficient privilege>"}
        row = connection.execute(
            "SELECT string_agg(pg_stat_get_backend_activity(id), '') FROM pg_stat_get_backend_idset() AS id "
            "WHERE pg_stat_get_backend_userid(id) <> session_user::regrole"
        ).fetchone()
        assert row is not None
        assert "secret" not in row[0]
    context.holder.leave()


def _cancels_with_a_guessed_key(context: AttackContext) -> None:
    """A cancellation needs no login, only the secret key of the session."""
    with context.as_neighbour() as other_session:
        other_session.pgconn.send_query(b"SELECT pg_sleep(0.2)")
        address = urlsplit(context.neighbour.url)
        for key in (0, 1, 0x7FFFFFFF):
            with socket.create_connection((str(address.hostname), address.port or 5432)) as connection:
                connection.sendall(struct.pack("!iiiI", 16, 80877102, other_session.info.backend_pid, key))
                assert connection.recv(1) == b""
        while (answer := other_session.pgconn.get_result()) is not None:
            assert answer.status == psycopg.pq.ExecStatus.TUPLES_OK
    context.holder.leave()


def _exhausts_connections(context: AttackContext) -> None:
    limit = int(context.names["connection_limit"])
    for _ in range(limit):
        context.run_and_stay_connected()
    with pytest.raises(psycopg.OperationalError, match="too many connections for role"):
        context.run_and_stay_connected()
    with psycopg.connect(context.neighbour.url) as neighbour:
        neighbour.execute("SELECT 1")
    context.holder.leave()


def _fills_temporary_files(context: AttackContext) -> None:
    connection = context.run_and_stay_connected("SET work_mem = '64kB'")
    try:
        connection.execute(
            "SELECT count(*) FROM (SELECT i FROM generate_series(1, 2000000) i ORDER BY random()) s"
        )
    except psycopg.errors.ConfigurationLimitExceeded:
        context.holder.leave()
    else:
        raise AssertionError("more than temp_file_limit was written")


PLACES: Final = (
    refused_by_function("connect to another lease's database", _other_databases),
    refused_by_function("connect to a template, or to template0", _templates),
    refused_by_function("connect to the control plane's database", _control_plane),
    refused_by_function("create anything in postgres or template1", _postgres),
    refused_by_function("connect for replication", _replication),
    refused("create a database, also as a copy of a template or of another lease's",
            "CREATE DATABASE mine", "CREATE DATABASE mine TEMPLATE @template@",
            "CREATE DATABASE mine TEMPLATE @their_database@"),
    refused("change, drop or take over another lease's database",
            "DROP DATABASE @database_of_another@", "ALTER DATABASE @database_of_another@ CONNECTION LIMIT 0",
            "ALTER DATABASE @database_of_another@ SET search_path = mine",
            "ALTER DATABASE @database_of_another@ OWNER TO @login@", "DROP DATABASE @control@",
            isolations=SCHEMA_ONLY),
    refused("change, drop or take over the template's database or the control plane's",
            "DROP DATABASE @template@", "ALTER DATABASE @template@ ALLOW_CONNECTIONS true", "DROP DATABASE @control@",
            "ALTER DATABASE @control@ OWNER TO @login@"),
    refused("rename its own database", "ALTER DATABASE @database@ RENAME TO mine"),
    refused("change the owner of its own database", "ALTER DATABASE @database@ OWNER TO pg_monitor",
            "ALTER DATABASE @database@ OWNER TO @neighbour@"),
    refused("use another lease's schema, or the seed",
            "SELECT * FROM @their_schema@.note", "CREATE TABLE @their_schema@.mine ()", "DROP SCHEMA @their_schema@ CASCADE",
            "ALTER SCHEMA @their_schema@ OWNER TO @login@", "GRANT USAGE ON SCHEMA @their_schema@ TO @login@",
            "SELECT * FROM @seed@.note", "DROP TABLE @seed@.note", "CREATE SCHEMA mine", "CREATE TABLE public.mine ()",
            "ALTER DATABASE @database@ SET work_mem = '1MB'", "ALTER DATABASE @database@ CONNECTION LIMIT 0",
            isolations=SCHEMA_ONLY),
)  # fmt: skip

FILES: Final = (
    refused("run a program on the server", "COPY (SELECT 1) TO PROGRAM 'true'", "COPY note (body) FROM PROGRAM 'id'"),
    refused("read files of the server",
            "SELECT pg_read_file('PG_VERSION')", "SELECT pg_read_binary_file('PG_VERSION')",
            "COPY note (body) FROM '/etc/passwd'", "SELECT lo_import('/etc/passwd')", "SELECT pg_stat_file('PG_VERSION')",
            "SELECT pg_current_logfile()", "SELECT * FROM pg_hba_file_rules", "SELECT * FROM pg_file_settings"),
    refused("list directories of the server", "SELECT pg_ls_dir('.')", "SELECT * FROM pg_ls_logdir()",
            "SELECT * FROM pg_ls_waldir()", "SELECT * FROM pg_ls_tmpdir()"),
    refused("write files of the server", "COPY note TO '/tmp/mine'", "SELECT lo_export(1, '/tmp/mine')"),
    refused("load a library, or functions of one", "LOAD '/tmp/mine.so'", "LOAD 'pg_prewarm'",
            "CREATE FUNCTION mine() RETURNS integer LANGUAGE c AS 'libc.so.6', 'getpid'",
            "CREATE FUNCTION mine() RETURNS integer LANGUAGE internal AS 'pg_backend_pid'"),
    refused("create or use an untrusted language", "CREATE LANGUAGE plpython3u",
            "CREATE FUNCTION mine() RETURNS integer LANGUAGE plpython3u AS 'return 1'",
            "CREATE EXTENSION plperlu", codes=(NOT_AVAILABLE, NO_SUCH_FILE, UNDEFINED_OBJECT)),
)  # fmt: skip

OTHER_SERVERS: Final = (
    refused("connect from inside the server (dblink, postgres_fdw, file_fdw)",
            "CREATE EXTENSION dblink", "CREATE EXTENSION postgres_fdw", "CREATE EXTENSION file_fdw",
            "CREATE FOREIGN DATA WRAPPER mine", codes=(NOT_AVAILABLE,)),
    refused("subscribe to another server's, or another database's, publications",
            "CREATE SUBSCRIPTION mine CONNECTION 'host=127.0.0.1 user=@service@ dbname=postgres' PUBLICATION mine"),
    refused("create replication slots and origins", "SELECT pg_create_physical_replication_slot('mine')",
            "SELECT pg_create_logical_replication_slot('mine', 'pgoutput')", "SELECT pg_replication_origin_create('mine')",
            codes=("55000",)),
)  # fmt: skip

ROLES: Final = (
    refused("become another role",
            "SET ROLE @neighbour@", "SET ROLE @service@", "SET ROLE pg_read_all_data", "SET ROLE @builder@",
            "SET SESSION AUTHORIZATION @neighbour@", "SET SESSION AUTHORIZATION @service@"),
    refused("get another role's rights",
            "GRANT @neighbour@ TO @login@", "GRANT @service@ TO @login@", "GRANT pg_signal_backend TO @login@",
            "GRANT pg_execute_server_program TO @login@", "GRANT pg_read_all_stats TO @login@",
            "GRANT @login@ TO @neighbour@", codes=("0LP01",)),
    refused("raise its own attributes", "ALTER ROLE @login@ SUPERUSER", "ALTER ROLE @login@ CREATEDB",
            "ALTER ROLE @login@ CREATEROLE", "ALTER ROLE @login@ REPLICATION", "ALTER ROLE @login@ BYPASSRLS",
            "ALTER ROLE @login@ CONNECTION LIMIT -1", "ALTER ROLE @login@ VALID UNTIL '2000-01-01'"),
    refused("create roles", "CREATE ROLE mine", "CREATE USER mine", "CREATE GROUP mine"),
    refused("change or drop other roles", "ALTER ROLE @neighbour@ PASSWORD 'mine'", "ALTER ROLE @neighbour@ NOLOGIN",
            "ALTER ROLE @neighbour@ SET search_path = mine", "DROP ROLE @neighbour@", "ALTER ROLE @service@ PASSWORD 'mine'",
            "ALTER ROLE ALL SET search_path = mine", "COMMENT ON ROLE @neighbour@ IS 'mine'"),
    refused("take over or drop objects of others", "REASSIGN OWNED BY @neighbour@ TO @login@", "DROP OWNED BY @neighbour@",
            "DROP OWNED BY @service@", "ALTER DEFAULT PRIVILEGES FOR ROLE @neighbour@ GRANT SELECT ON TABLES TO PUBLIC"),
    refused("revoke the service's rights on its own login", "REVOKE @login@ FROM @service@"),
    refused("escape the fence by renaming its login", "ALTER ROLE @login@ RENAME TO mine", codes=(NOT_AVAILABLE,)),
    refused("read passwords", "SELECT rolpassword FROM pg_authid", "SELECT passwd FROM pg_shadow",
            "SELECT * FROM pg_user_mapping", "SELECT * FROM pg_subscription"),
)  # fmt: skip

SESSIONS: Final = (
    refused("end or cancel others' sessions",
            "SELECT pg_terminate_backend(@their_pid@)", "SELECT pg_cancel_backend(@their_pid@)"),
    refused("end or cancel the service's sessions",
            "SELECT pg_terminate_backend(@service_pid@)", "SELECT pg_cancel_backend(@service_pid@)",
            "SELECT pg_log_backend_memory_contexts(@service_pid@)"),
    refused_by_function("cancel others' statements with a guessed key", _cancels_with_a_guessed_key),
    refused_by_function("read the statements of others", _sees_no_query),
)  # fmt: skip

SERVER: Final = (
    refused("create an event trigger, also on login",
            "CREATE EVENT TRIGGER mine ON ddl_command_start EXECUTE FUNCTION pg_catalog.tsvector_update_trigger()",
            "CREATE EVENT TRIGGER mine ON login EXECUTE FUNCTION pg_catalog.tsvector_update_trigger()",
            codes=("42601",)),
    refused("change settings of the server", "ALTER SYSTEM SET work_mem = '1MB'", "SELECT pg_reload_conf()",
            "SET session_preload_libraries = 'mine'", "ALTER ROLE @login@ SET session_preload_libraries = 'mine'",
            "ALTER ROLE @login@ SET log_statement = 'all'", "SET session_replication_role = replica",
            "SET zero_damaged_pages = on"),
    refused("hide changes from freshdb", "SET track_counts = off", "ALTER ROLE @login@ SET track_counts = off",
            "SELECT pg_stat_reset()", "SELECT pg_stat_reset_shared('bgwriter')",
            "SELECT pg_stat_reset_single_table_counters('note'::regclass)"),
    refused("write to the catalogs", "UPDATE pg_authid SET rolsuper = true", "UPDATE pg_database SET datconnlimit = 0",
            "DELETE FROM pg_shdescription", "INSERT INTO pg_auth_members VALUES (1)",
            "ALTER TABLE pg_catalog.pg_class ADD COLUMN mine integer", "CREATE TABLE pg_catalog.mine ()",
            codes=("42809", "23502")),
    refused("lock the catalogs", "BEGIN; LOCK TABLE pg_authid IN ACCESS SHARE MODE",
            "BEGIN; LOCK TABLE pg_database IN ROW EXCLUSIVE MODE", "BEGIN; LOCK TABLE pg_class IN SHARE MODE",
            "SELECT * FROM pg_database FOR UPDATE", "SELECT * FROM pg_database FOR KEY SHARE"),
    refused("switch the write-ahead log, force a checkpoint, create a tablespace",
            "SELECT pg_switch_wal()", "SELECT pg_create_restore_point('mine')", "CHECKPOINT",
            "CREATE TABLESPACE mine LOCATION '/tmp'", "SELECT pg_rotate_logfile()", "SELECT pg_promote()"),
    refused_by_function("take all connections of the server", _exhausts_connections),
    refused_by_function("fill the disk with temporary files", _fills_temporary_files, superuser=True),
    refused("raise the limit of temporary files", "SET temp_file_limit = -1", "ALTER ROLE @login@ SET temp_file_limit = -1",
            "ALTER ROLE @login@ RESET temp_file_limit", superuser=True),
)  # fmt: skip

REFUSED: Final[tuple[Attack, ...]] = (*PLACES, *FILES, *OTHER_SERVERS, *ROLES, *SESSIONS, *SERVER)
