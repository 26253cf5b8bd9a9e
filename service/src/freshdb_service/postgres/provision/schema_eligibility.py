"""Find the reasons why a template cannot be leased as a schema.

The reasons are objects that belong to a database and not to a schema, and texts that name the schema ``public`` and that
PostgreSQL does not change when the schema is renamed. Each query returns one reason per row, which names the object. The
queries run in a copy of the template, before its schema is renamed. The trial at the end of the preparation finds any other
reason (``shared_database``).
"""

from __future__ import annotations

import re
from typing import Final

from freshdb_service.postgres.server.connections import Connection

_LITERAL_NAMING_PUBLIC: Final = re.compile(r"'(?:[^'\n]|'')*\bpublic\b\"?\.(?:[^'\n]|'')*'")

_OF_THE_DATABASE: Final = """
WITH object (catalog, oid, description) AS (
    SELECT 'pg_event_trigger'::regclass, oid, format('the event trigger %I', evtname) FROM pg_event_trigger
    UNION ALL SELECT 'pg_publication', oid, format('the publication %I', pubname) FROM pg_publication
    UNION ALL SELECT 'pg_foreign_data_wrapper', oid, format('the foreign data wrapper %I', fdwname)
              FROM pg_foreign_data_wrapper
    UNION ALL SELECT 'pg_foreign_server', oid, format('the foreign server %I', srvname) FROM pg_foreign_server
    UNION ALL SELECT 'pg_cast', oid, format('the cast from %s to %s', castsource::regtype, casttarget::regtype) FROM pg_cast
    UNION ALL SELECT 'pg_language', oid, format('the language %I', lanname) FROM pg_language
    UNION ALL SELECT 'pg_transform', oid, format('the transform for %s', trftype::regtype) FROM pg_transform
    UNION ALL SELECT 'pg_am', oid, format('the access method %I', amname) FROM pg_am
    UNION ALL SELECT 'pg_largeobject', oid, format('the large object %s', oid) FROM pg_largeobject_metadata
    UNION ALL SELECT 'pg_extension', oid, format('the extension %I, which cannot be moved out of "public",', extname)
              FROM pg_extension WHERE NOT extrelocatable AND extnamespace = to_regnamespace('public')
)
SELECT description || ' belongs to a whole database' FROM object
WHERE (oid >= 16384 OR catalog = 'pg_largeobject'::regclass)  -- objects with lower OIDs are PostgreSQL's own
  AND NOT EXISTS (
      SELECT FROM pg_depend d
      WHERE d.classid = object.catalog AND d.objid = object.oid AND d.deptype IN ('e', 'i')  -- an extension's, a type's
  )
ORDER BY 1
"""

_SCHEMAS: Final = """
SELECT format('the schema %I: a schema lease has one schema, so everything has to be in "public"', n.nspname)
FROM pg_namespace n WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'public')
  AND (EXISTS (  -- an object that is no extension's
      SELECT FROM pg_depend d
      WHERE d.refclassid = 'pg_namespace'::regclass AND d.refobjid = n.oid AND d.classid <> 'pg_extension'::regclass
        AND NOT EXISTS (SELECT FROM pg_depend e
                        WHERE e.classid = d.classid AND e.objid = d.objid AND e.deptype = 'e'))
    OR NOT EXISTS (SELECT FROM pg_extension e WHERE e.extnamespace = n.oid))
UNION ALL
SELECT 'the schema "public" was dropped' WHERE to_regnamespace('public') IS NULL
ORDER BY 1
"""

_EXTENSIONS: Final = """
SELECT format('the extension %I, whose event triggers work for a whole database', e.extname)
FROM pg_extension e JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
WHERE d.classid = 'pg_event_trigger'::regclass
GROUP BY e.extname ORDER BY 1
"""

_EXTENSION_ROWS: Final = """
SELECT format('SELECT %L WHERE EXISTS (SELECT FROM %s %s)',
              format('the template''s rows in %s, a table of the extension %I, which all schemas would share',
                     c.oid::regclass, e.extname), c.oid::regclass, one.condition)
FROM pg_extension e, unnest(e.extconfig, e.extcondition) AS one (number, condition) JOIN pg_class c ON c.oid = one.number
WHERE c.relkind IN ('r', 'p')
ORDER BY c.oid
"""
"""Queries for the rows that ``pg_dump`` would dump, because the extension's own script has not written them."""

_FUNCTIONS: Final = """
SELECT format('%s names the schema "public" in its %s, which cannot be renamed along', p.oid::regprocedure,
              CASE WHEN p.proconfig::text ~* '\\mpublic\\M' THEN 'settings' ELSE 'body' END)
FROM pg_proc p
WHERE p.pronamespace = to_regnamespace('public')
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
  AND (p.proconfig::text ~* '\\mpublic\\M' OR (p.prosqlbody IS NULL AND p.prosrc ~* '\\mpublic\\M'))
ORDER BY 1
"""

_DEFAULT_PRIVILEGES: Final = """
SELECT DISTINCT format('default privileges of the role %I', pg_get_userbyid(defaclrole)) FROM pg_default_acl
WHERE defaclrole <> (SELECT datdba FROM pg_database WHERE datname = current_database())
"""

_SECURITY_LABELS: Final = """
SELECT format('a security label on %s', pg_describe_object(classoid, objoid, objsubid)) FROM pg_seclabel ORDER BY 1
"""

_SETTINGS: Final = """
SELECT DISTINCT format('the setting of %s for %s: with a schema lease it is the service''s to set', split_part(one, '=', 1),
                       CASE setrole WHEN 0 THEN 'the database' ELSE 'the role that built the template' END)
FROM pg_db_role_setting, unnest(setconfig) AS one
WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (setrole <> 0 OR split_part(one, '=', 1) IN ('search_path', 'role'))
"""

_NUMBERS: Final = """
SELECT DISTINCT format('the column %I.%I refers to objects by their number (type %s)', c.relname, a.attname,
                       format_type(a.atttypid, a.atttypmod))
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p')
  JOIN pg_type t ON t.oid = a.atttypid
WHERE c.relnamespace = to_regnamespace('public') AND a.attnum > 0 AND NOT a.attisdropped
  AND coalesce(nullif(t.typelem, 0), t.oid) = ANY (ARRAY['regclass', 'regproc', 'regprocedure', 'regoper',
    'regoperator', 'regtype', 'regrole', 'regnamespace', 'regcollation', 'regconfig', 'regdictionary']::regtype[])
"""

_QUERIES: Final = (
    _SCHEMAS,
    _OF_THE_DATABASE,
    _EXTENSIONS,
    _FUNCTIONS,
    _DEFAULT_PRIVILEGES,
    _SECURITY_LABELS,
    _SETTINGS,
    _NUMBERS,
)


async def ineligibility_reasons(connection: Connection) -> list[str]:
    """Return the reasons why the template, in whose copy the connection is, cannot be leased as a schema."""
    reasons: list[str] = []
    for query in _QUERIES:
        reasons += [str(row[0]) for row in await connection.fetch(query)]
    for row in await connection.fetch(_EXTENSION_ROWS):
        reasons += [str(found[0]) for found in await connection.fetch(row[0])]
    return reasons


def literals_naming_public(entries: list[str]) -> list[str]:
    """Return the objects whose definition has ``public.`` in a text constant, which a rename does not change."""
    return [
        f'a text in this definition names the schema "public": {match[0]} (in {entry.splitlines()[0][:120]})'
        for entry in entries
        if not entry.startswith("COMMENT ON") and (match := _LITERAL_NAMING_PUBLIC.search(entry))
    ]
