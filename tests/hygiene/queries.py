"""The SQL of snapshots. Every query returns pairs of a key and a value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

_USERS: Final = (
    "IN (SELECT oid FROM pg_namespace WHERE nspname !~ '^pg_|_seed_' AND nspname <> 'information_schema')"
)
"""Condition for schemas other than PostgreSQL's and the seeds of shared databases, on which no holder has rights."""
_RELATIONS: Final = f"IN (SELECT oid FROM pg_class WHERE relnamespace {_USERS})"

CLUSTER: Final = """
WITH here AS (SELECT * FROM pg_database WHERE datname = current_database()),
     login AS (SELECT oid, rolname FROM pg_authid WHERE rolname = %(user)s),
     family AS (SELECT oid, rolname FROM pg_authid WHERE starts_with(rolname, %(family)s))
SELECT 'database: ' || (d).key, (d).value FROM (
    SELECT jsonb_each_text(to_jsonb(here) - '{oid,datdba,dattablespace,datfrozenxid,datminmxid,datacl}'::text[]
      || jsonb_build_object('owner', pg_get_userbyid(datdba), 'comment', shobj_description(oid, 'pg_database'),
           'tablespace', (SELECT spcname FROM pg_tablespace t WHERE t.oid = dattablespace),
           'privileges', (SELECT string_agg(one::text, ' ' ORDER BY one::text) FROM unnest(datacl) AS one))) AS d
    FROM here) AS attributes
UNION ALL
SELECT 'setting: ' || coalesce(pg_get_userbyid(nullif(setrole, 0)), 'all roles') || ' in '
         || coalesce((SELECT datname FROM pg_database d WHERE d.oid = setdatabase), 'every database'),
       (SELECT string_agg(one, '; ' ORDER BY one) FROM unnest(setconfig) AS one)
FROM pg_db_role_setting
WHERE setdatabase = (SELECT oid FROM here) OR setrole IN (SELECT oid FROM family)
UNION ALL
SELECT 'login: ' || (r).key, (r).value FROM (
    SELECT jsonb_each_text(to_jsonb(a) - '{oid,rolpassword}'::text[]
      || jsonb_build_object('comment', shobj_description(oid, 'pg_authid'))) AS r
    FROM pg_authid a WHERE rolname = %(user)s) AS attributes
UNION ALL
SELECT 'other login: ' || rolname, 'exists' FROM family WHERE rolname <> %(user)s
UNION ALL
SELECT 'member: ' || pg_get_userbyid(member) || ' of ' || pg_get_userbyid(roleid), (to_jsonb(m)
         - '{oid,roleid,member,grantor}'::text[])::text
FROM pg_auth_members m WHERE roleid IN (SELECT oid FROM family) OR member IN (SELECT oid FROM family)
UNION ALL
SELECT 'named elsewhere: ' || pg_get_userbyid(refobjid) || ' in '
         || coalesce((SELECT datname FROM pg_database d WHERE d.oid = s.dbid), classid::regclass::text), count(*)::text
FROM pg_shdepend s
WHERE refclassid = 'pg_authid'::regclass AND refobjid IN (SELECT oid FROM family) AND dbid <> (SELECT oid FROM here)
GROUP BY refobjid, dbid, classid
UNION ALL
SELECT 'prepared transaction: ' || gid, owner FROM pg_prepared_xacts
WHERE database = current_database() OR starts_with(owner, %(family)s)
UNION ALL
SELECT format('advisory lock: %%s %%s %%s', classid, objid, objsubid), mode FROM pg_locks
WHERE locktype = 'advisory' AND database = (SELECT oid FROM here)
UNION ALL
SELECT 'session: ' || coalesce(usename, 'of a dropped role'), state FROM pg_stat_activity
WHERE pid <> pg_backend_pid() AND backend_type = 'client backend' AND (starts_with(usename, %(family)s)
  OR (datname = current_database() AND (usename IS NULL AND usesysid IS NOT NULL)))
UNION ALL
SELECT 'large object: ' || m.oid, format('owner %%s, privileges %%s, %%s', pg_get_userbyid(lomowner), lomacl,
         (SELECT md5(string_agg(pageno || encode(data, 'hex'), ' ' ORDER BY pageno)) FROM pg_largeobject WHERE loid = m.oid))
FROM pg_largeobject_metadata m
UNION ALL
SELECT 'temporary: ' || relname, relkind::text FROM pg_class
WHERE relnamespace IN (SELECT oid FROM pg_namespace WHERE nspname ~ '^pg_(toast_)?temp_')
UNION ALL
SELECT 'temporary function: ' || proname, prosrc FROM pg_proc
WHERE pronamespace IN (SELECT oid FROM pg_namespace WHERE nspname ~ '^pg_temp_')
UNION ALL
SELECT 'temporary type: ' || typname, typtype::text FROM pg_type
WHERE typnamespace IN (SELECT oid FROM pg_namespace WHERE nspname ~ '^pg_temp_')
"""

AS_HOLDER: Final = """
SELECT 'setting ' || name, setting FROM pg_settings WHERE source IN ('database', 'user', 'database user')
UNION ALL SELECT 'is in', current_database() || ', ' || coalesce(current_schema(), 'no schema')
UNION ALL SELECT 'is', session_user || ', ' || current_user
UNION ALL SELECT 'may create in', coalesce(string_agg(nspname, ', ' ORDER BY nspname), 'nothing') FROM pg_namespace
          WHERE nspname !~ '^pg_' AND nspname !~ '_seed_' AND has_schema_privilege(oid, 'CREATE')
"""

COLUMNS: Final = """
SELECT attrelid::regclass::text, attname FROM pg_attribute
WHERE attrelid = ANY (ARRAY(SELECT to_regclass('pg_catalog.' || one) FROM unnest(%s::text[]) AS one))
  AND attnum > 0 AND NOT attisdropped AND attname <> ALL (%s)
  AND atttypid <> ALL ('{oid,oid[],oidvector,pg_node_tree,xid,regproc,anyarray}'::regtype[])
ORDER BY 1, attnum
"""
"""Columns of catalogs without OIDs, and without trees that hold OIDs."""

IGNORED: Final = frozenset(
    """
    relpages reltuples relallvisible relallfrozen relhasindex relhasrules relhastriggers relhassubclass relfilenode
    atthasmissing indcheckxmin attcacheoff
    """.split()  # noqa: SIM905 - reads better
)
"""Columns that PostgreSQL changes by itself, or that only describe storage."""

_MEMBERS: Final = "(SELECT d.classid, d.objid FROM pg_depend d WHERE d.deptype = 'e')"
_NOT_AN_EXTENSIONS: Final = f"(x.tableoid, x.oid) NOT IN {_MEMBERS}"
_DESCRIBES_NO_EXTENSIONS: Final = f"(x.classoid, x.objoid) NOT IN {_MEMBERS}"

CATALOGS: Final[Mapping[str, tuple[str, str]]] = {
    "pg_namespace": ("nspname", f"x.oid {_USERS} OR nspname ~ '_seed_'"),
    "pg_class": ("x.oid::regclass::text", f"relnamespace {_USERS}"),
    "pg_attribute": (
        "attrelid::regclass || ' ' || attnum",
        f"attnum > 0 AND attrelid IN (SELECT oid FROM pg_class WHERE relkind !~ '[iIS]' AND relnamespace {_USERS})",
    ),
    "pg_attrdef": (
        "adrelid::regclass || ' ' || adnum",
        f"adrelid {_RELATIONS}",
    ),
    "pg_constraint": (
        "conrelid::regclass || ' ' || contypid::regtype || ' ' || conname",
        f"connamespace {_USERS}",
    ),
    "pg_index": (
        "indexrelid::regclass::text",
        f"indexrelid {_RELATIONS}",
    ),
    "pg_inherits": ("inhrelid::regclass || ' of ' || inhparent::regclass", "true"),
    "pg_partitioned_table": ("partrelid::regclass::text", "true"),
    "pg_sequence": (
        "seqrelid::regclass::text",
        f"seqrelid {_RELATIONS}",
    ),
    "pg_trigger": (
        "tgrelid::regclass || ' ' || CASE WHEN tgisinternal THEN 'of ' || tgtype || ' of a constraint' ELSE tgname END",
        f"tgrelid {_RELATIONS}",
    ),
    "pg_rewrite": (
        "ev_class::regclass || ' ' || rulename",
        f"ev_class {_RELATIONS}",
    ),
    "pg_policy": (
        "polrelid::regclass || ' ' || polname",
        f"polrelid {_RELATIONS}",
    ),
    "pg_statistic_ext": ("stxrelid::regclass || ' ' || stxname", f"stxnamespace {_USERS}"),
    "pg_proc": ("x.oid::regprocedure::text", f"pronamespace {_USERS} AND {_NOT_AN_EXTENSIONS}"),
    "pg_type": ("x.oid::regtype::text", f"typnamespace {_USERS} AND {_NOT_AN_EXTENSIONS}"),
    "pg_enum": (
        "enumtypid::regtype || ' ' || enumlabel",
        f"enumtypid IN (SELECT oid FROM pg_type WHERE typnamespace {_USERS})",
    ),
    "pg_collation": ("x.oid::regcollation::text", f"collnamespace {_USERS}"),
    "pg_conversion": ("conname", f"connamespace {_USERS}"),
    "pg_operator": ("x.oid::regoperator::text", f"oprnamespace {_USERS} AND {_NOT_AN_EXTENSIONS}"),
    "pg_opclass": ("opcname", f"opcnamespace {_USERS} AND {_NOT_AN_EXTENSIONS}"),
    "pg_opfamily": ("opfname", f"opfnamespace {_USERS} AND {_NOT_AN_EXTENSIONS}"),
    "pg_ts_config": ("x.oid::regconfig::text", f"cfgnamespace {_USERS}"),
    "pg_ts_config_map": (
        "mapcfg::regconfig || ' ' || maptokentype || ' ' || mapseqno || ' ' || mapdict::regdictionary",
        f"mapcfg IN (SELECT oid FROM pg_ts_config WHERE cfgnamespace {_USERS})",
    ),
    "pg_ts_dict": ("x.oid::regdictionary::text", f"dictnamespace {_USERS}"),
    "pg_cast": ("castsource::regtype || ' to ' || casttarget::regtype", "x.oid >= 16384"),
    "pg_default_acl": (
        "pg_get_userbyid(defaclrole) || ' ' || defaclnamespace::regnamespace || ' ' || defaclobjtype::text",
        "true",
    ),
    "pg_extension": ("extname || ' in ' || extnamespace::regnamespace", "true"),
    "pg_publication": ("pubname", "true"),
    "pg_publication_rel": ("prrelid::regclass::text", "true"),
    "pg_event_trigger": ("evtname", "true"),
    "pg_foreign_data_wrapper": ("fdwname", "true"),
    "pg_foreign_server": ("srvname", "true"),
    "pg_language": ("lanname", "x.oid >= 16384"),
    "pg_am": (
        "amname",
        "x.oid >= 16384 AND " + _NOT_AN_EXTENSIONS,
    ),
    "pg_description": (
        "classoid::regclass || ' ' || pg_describe_object(classoid, objoid, objsubid)",
        f"objoid >= 16384 AND classoid <> 'pg_namespace'::regclass AND {_DESCRIBES_NO_EXTENSIONS}",
    ),
}
"""For each catalog, the expression for a row's key, and the condition for rows."""

_OWNERS: Final = {
    "pg_namespace": "nspowner",
    "pg_class": "relowner",
    "pg_proc": "proowner",
    "pg_type": "typowner",
    "pg_extension": "extowner",
    "pg_publication": "pubowner",
    "pg_ts_config": "cfgowner",
}

CONTENTS: Final = f"""
SELECT CASE WHEN c.relkind = 'S'
            THEN format('SELECT %L, last_value || CASE WHEN is_called THEN %L ELSE %L END FROM %s',
                        'sequence ' || c.oid::regclass, ' called', ' not called', c.oid::regclass)
            WHEN NOT c.relispopulated THEN format('SELECT %L, %L', 'rows of ' || c.oid::regclass, 'not populated')
            ELSE format('SELECT %L, CASE WHEN sum(length(r)) > 4000 THEN count(*) || %L || md5(string_agg(r, %L)) '
                        'ELSE string_agg(r, %L) END FROM (SELECT t::text AS r FROM ONLY %s AS t ORDER BY 1) AS ordered',
                        'rows of ' || c.oid::regclass, ' rows: ', chr(10), chr(10), c.oid::regclass) END
FROM pg_class c WHERE c.relnamespace {_USERS} AND c.relkind IN ('r', 'm', 'S') ORDER BY c.oid
"""
"""Queries that list every table, materialized view and sequence."""


def catalogs(columns: Mapping[str, Sequence[str]]) -> str:
    """Return queries over all catalogs, with these columns."""
    return ";\n".join(_catalog(name, columns[name]) for name in CATALOGS if name in columns)


def _catalog(name: str, columns: Sequence[str]) -> str:
    key, where = CATALOGS[name]
    shown = [
        f"'{column}', x.{column}" for column in columns if not (name == "pg_trigger" and column == "tgname")
    ]
    if name in _OWNERS:
        shown.append(f"'owner', pg_get_userbyid({_OWNERS[name]})")
    return (
        f"SELECT '{name} ' || {key}, jsonb_build_object({', '.join(shown)})::text FROM {name} x WHERE {where}"
    )
