"""Probes of objects of the database and of the server: schemas, roles, settings, extensions, replication and others."""

from __future__ import annotations

from typing import Final

import psycopg

from tests.twins.probes.probe import DATABASE, Probe
from tests.twins.probes.session import Query, Session
from tests.twins.probes.values import Json

_IDENTITY: Final = "pg_identify_object(d.classid, d.objid, d.objsubid)"
_OTHER_DATABASE: Final = "CASE WHEN d.dbid NOT IN (0, m.oid) THEN 'in another database' END"
_NAMED: Final = (
    ("pg_class", "relname"),
    ("pg_proc", "proname"),
    ("pg_namespace", "nspname"),
    ("pg_type", "typname"),
    ("pg_constraint", "conname"),
    ("pg_database", "datname"),
    ("pg_roles", "rolname"),
    ("pg_tablespace", "spcname"),
    ("pg_extension", "extname"),
    ("pg_foreign_server", "srvname"),
    ("pg_event_trigger", "evtname"),
    ("pg_publication", "pubname"),
    ("pg_replication_slots", "slot_name"),
)


def _row_counts(session: Session) -> Json:
    """Count the rows of each catalog of the database that the login may read."""
    tables = session.lines(
        "SELECT relname FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind = 'r'"
        " AND NOT relisshared AND has_table_privilege(oid, 'SELECT') ORDER BY 1"
    )
    return {str(table): session.lines(f"SELECT count(*) FROM pg_catalog.{table}")[0] for table in tables}


def _statements(session: Session) -> Json:
    """Return the statements in pg_stat_statements, if the template has it."""
    try:
        return Query(
            "SELECT query, calls FROM pg_stat_statements"
            " WHERE userid = {role_oid} AND dbid = (SELECT oid FROM pg_database WHERE datname = {database})",
            bag=True,
            only=frozenset(("query",)),
        )(session)
    except psycopg.errors.UndefinedTable:
        return "not installed"


def _probe(name: str, observes: str, sql: str, *, key: int = 0, presence: tuple[str, ...] = ()) -> Probe:
    run = Query(sql, key=key, bag=not key, presence=frozenset(presence))
    return Probe(name=f"catalogs.{name}", observes=observes, run=run)


PROBES: Final = (
    Probe(
        name="catalogs.row_counts",
        observes="numbers of rows of every catalog, a net for objects of all kinds. Other leases change them in a"
        " shared database",
        run=_row_counts,
        isolations=DATABASE,
    ),
    Probe(
        name="catalogs.schemas",
        observes="schemas with their owners and rights, without temporary ones",
        run=Query(
            "SELECT nspname, pg_get_userbyid(nspowner) AS owner, nspacl FROM pg_namespace"
            " WHERE nspname !~ '^pg_(toast_)?temp_' AND ({own_database} OR nspname IN ({schema}, 'public')"
            " OR pg_has_role({role}, nspowner, 'MEMBER'))",
            key=1,
        ),
    ),
    Probe(
        name="catalogs.temporary_schemas",
        observes="schemas of temporary tables, which stay after their session. A shared database has those of all leases",
        run=Query("SELECT nspname, nspacl FROM pg_namespace WHERE nspname ~ '^pg_(toast_)?temp_'", bag=True),
        isolations=DATABASE,
    ),
    Probe(
        name="catalogs.temporary_relations",
        observes="temporary tables of other sessions of the lease's role",
        run=Query(
            "SELECT relname FROM pg_class WHERE relpersistence = 't' AND relowner = {role_oid}", bag=True
        ),
        must_be_empty=True,
    ),
    _probe(
        "owned_objects",
        "objects that the role owns or has rights on, in this database, in all databases, or elsewhere (pg_shdepend)",
        f"SELECT d.classid::regclass AS of, d.deptype, {_OTHER_DATABASE} AS place,"
        " CASE WHEN d.dbid IN (0, m.oid) AND d.classid <> 'pg_largeobject'::regclass"
        f" THEN ({_IDENTITY}).identity END AS name"
        " FROM pg_shdepend AS d, pg_database AS m WHERE m.datname = {database} AND d.refobjid = {role_oid}"
        " AND d.refclassid = 'pg_authid'::regclass",
    ),
    _probe(
        "named_after_lease",
        "names in catalogs that contain the name of the lease's role",
        " UNION ALL ".join(
            f"SELECT '{catalog}' AS catalog, {column}::text AS name FROM {catalog} WHERE {column} ~ {{role_word}}"
            for catalog, column in _NAMED
        ),
    ),
    _probe(
        "database",
        "encoding, locale, limits, rights and owner of the database",
        "SELECT datname, pg_get_userbyid(datdba) AS owner, pg_encoding_to_char(encoding) AS encoding, datcollate, datctype,"
        " datlocprovider, datcollversion, datistemplate, datallowconn, datconnlimit, datacl, t.spcname"
        " FROM pg_database AS d JOIN pg_tablespace AS t ON t.oid = d.dattablespace WHERE datname = {database}",
        key=1,
    ),
    Probe(
        name="catalogs.role",
        observes="all columns of the role in pg_roles but its oid. The end of validity differs: only if there is one",
        run=Query(
            "SELECT * FROM pg_roles WHERE rolname = {role}",
            without=frozenset(("oid",)),
            presence=frozenset(("rolvaliduntil",)),
        ),
    ),
    Probe(
        name="catalogs.memberships",
        observes="roles that the role is a member of, and members of the role, with their options",
        run=Query(
            "SELECT pg_get_userbyid(roleid) AS role, pg_get_userbyid(member) AS has, pg_get_userbyid(grantor) AS by, m.*"
            " FROM pg_auth_members AS m WHERE {role_oid} IN (roleid, member)",
            bag=True,
            without=frozenset(("oid", "roleid", "member", "grantor")),
        ),
    ),
    _probe(
        "settings",
        "ALTER ROLE SET and ALTER DATABASE SET for the role, the database, or all roles",
        "SELECT d.datname AS database, CASE WHEN setrole <> 0 THEN pg_get_userbyid(setrole) END AS role, setconfig"
        " FROM pg_db_role_setting AS s LEFT JOIN pg_database AS d ON d.oid = s.setdatabase"
        " WHERE setrole IN (0, {role_oid}) AND setdatabase = 0 OR d.datname = {database}"
        " AND ({own_database} OR setrole IN (0, {role_oid}))",
    ),
    _probe(
        "shared_comments",
        "comments on the role and on the database",
        "SELECT o.type, d.description FROM pg_shdescription AS d, pg_identify_object(d.classoid, d.objoid, 0) AS o"
        " WHERE d.objoid = {role_oid} OR d.objoid = (SELECT oid FROM pg_database WHERE datname = {database})",
    ),
    _probe(
        "extensions",
        "extensions with their versions, owners and schemas",
        "SELECT extname, extversion, pg_get_userbyid(extowner) AS owner, extnamespace::regnamespace AS schema"
        " FROM pg_extension",
        key=1,
    ),
    _probe(
        "languages",
        "languages, access methods and casts of users",
        "SELECT lanname, pg_get_userbyid(lanowner) AS owner, lanacl FROM pg_language"
        " UNION ALL SELECT amname, amhandler::text, NULL FROM pg_am"
        " UNION ALL SELECT format_type(castsource, NULL), format_type(casttarget, NULL), NULL FROM pg_cast"
        " WHERE oid >= 16384"
        " UNION ALL SELECT 'transforms', count(*)::text, NULL FROM pg_transform",
    ),
    _probe(
        "event_triggers",
        "event triggers",
        "SELECT evtname, evtevent, pg_get_userbyid(evtowner) AS owner, evtenabled, evttags FROM pg_event_trigger",
    ),
    _probe(
        "publications",
        "publications and their tables and schemas",
        "SELECT pubname, pg_get_userbyid(pubowner) AS owner, t.tablename AS table FROM pg_publication AS p"
        " LEFT JOIN pg_publication_tables AS t USING (pubname)"
        " WHERE {own_database} OR pg_has_role({role}, pubowner, 'MEMBER') OR t.schemaname = {schema}",
    ),
    _probe(
        "subscriptions",
        "subscriptions of the database",
        "SELECT subname, pg_get_userbyid(subowner) AS owner, subenabled FROM pg_subscription"
        " WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = {database})",
    ),
    _probe(
        "replication_slots",
        "replication slots of the database",
        "SELECT slot_name, plugin, slot_type, temporary, active FROM pg_replication_slots WHERE database = {database}",
    ),
    _probe(
        "foreign_data",
        "foreign data wrappers, servers, tables and user mappings",
        "SELECT 'wrapper' AS kind, fdwname::text AS name, fdwoptions AS options, fdwacl AS acl FROM pg_foreign_data_wrapper"
        " UNION ALL SELECT 'server', srvname, srvoptions, srvacl FROM pg_foreign_server"
        " UNION ALL SELECT 'table', ftrelid::regclass::text, ftoptions, NULL FROM pg_foreign_table"
        " UNION ALL SELECT 'mapping', srvname || ' for ' || usename, umoptions, NULL FROM pg_user_mappings"
        " WHERE {own_database} OR usename = {role}",
    ),
    _probe(
        "default_privileges",
        "ALTER DEFAULT PRIVILEGES of the role, or in its schemas",
        "SELECT pg_get_userbyid(defaclrole) AS role, n.nspname, defaclobjtype, defaclacl FROM pg_default_acl AS d"
        " LEFT JOIN pg_namespace AS n ON n.oid = d.defaclnamespace"
        " WHERE {own_database} OR defaclrole = {role_oid} OR n.nspname = {schema}",
    ),
    _probe(
        "security_labels",
        "security labels of the lease's objects",
        "SELECT objtype, objname, provider, label FROM pg_seclabels WHERE {own_database} OR objname ~ {role_word}",
    ),
    _probe(
        "large_objects",
        "large objects with their owners and rights",
        "SELECT pg_get_userbyid(lomowner) AS owner, lomacl FROM pg_largeobject_metadata"
        " WHERE {own_database} OR lomowner = {role_oid}",
    ),
    _probe(
        "initial_privileges",
        "pg_init_privs: rights that objects had from the beginning or from their extension",
        "SELECT p.classoid::regclass AS of, p.privtype, count(*) FROM pg_init_privs AS p"
        " WHERE {own_database} OR p.objoid < 16384 GROUP BY 1, 2",
    ),
    _probe(
        "tablespaces",
        "tablespaces of the system, and those that the role owns or may use",
        "SELECT spcname, pg_get_userbyid(spcowner) AS owner, spcacl FROM pg_tablespace WHERE spcname ~ '^pg_'"
        " OR pg_has_role({role}, spcowner, 'MEMBER') OR has_tablespace_privilege({role}, oid, 'CREATE')",
    ),
    Probe(
        name="catalogs.statements",
        observes="the texts of pg_stat_statements, if it is installed. Calls and durations are left out",
        run=_statements,
    ),
)
