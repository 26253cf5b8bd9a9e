"""Probes of the rights of the login and of PUBLIC, as the ``has_*_privilege`` functions tell them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tests.twins.probes.probe import DATABASE, Probe
from tests.twins.probes.session import Query

_TABLE: Final = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")
_CLASS: Final = "pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace AND {scope n.nspname}"


def _matrix(kind: str, name: str, privileges: Sequence[str], source: str, *, named: str = "") -> Query:
    """Return a query with a column for each privilege of the role, and one for each of PUBLIC."""
    columns = [
        f"has_{kind}_privilege({who}, {name}, '{privilege}') AS \"{label} {privilege}\""
        for who, label in (("{role}", "role"), ("'public'", "public"))
        for privilege in privileges
    ]
    return Query(f"SELECT {named or name} AS name, {', '.join(columns)} FROM {source}", key=1)


PROBES: Final = (
    Probe(
        name="privileges.tables",
        observes="rights on tables and views",
        run=_matrix(
            "table",
            "c.oid",
            _TABLE,
            f"{_CLASS} WHERE c.relkind IN ('r', 'v', 'm', 'p', 'f')",
            named="c.relname",
        ),
    ),
    Probe(
        name="privileges.maintain",
        observes="the right MAINTAIN on tables and views, since 17",
        run=_matrix(
            "table",
            "c.oid",
            ("MAINTAIN",),
            f"{_CLASS} WHERE c.relkind IN ('r', 'v', 'm', 'p')",
            named="c.relname",
        ),
        since=17,
    ),
    Probe(
        name="privileges.columns",
        observes="rights on columns",
        run=_matrix(
            "column",
            "c.oid, a.attnum",
            ("SELECT", "INSERT", "UPDATE", "REFERENCES"),
            f"{_CLASS} JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
            " WHERE c.relkind IN ('r', 'v', 'm', 'p', 'f')",
            named="c.relname || '.' || a.attname",
        ),
    ),
    Probe(
        name="privileges.sequences",
        observes="rights on sequences",
        run=_matrix(
            "sequence",
            "c.oid",
            ("USAGE", "SELECT", "UPDATE"),
            f"{_CLASS} WHERE c.relkind = 'S'",
            named="c.relname",
        ),
    ),
    Probe(
        name="privileges.functions",
        observes="rights on functions",
        run=_matrix(
            "function",
            "p.oid",
            ("EXECUTE",),
            "pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace WHERE {scope n.nspname}",
            named="p.proname",
        ),
    ),
    Probe(
        name="privileges.types",
        observes="rights on types",
        run=_matrix(
            "type",
            "t.oid",
            ("USAGE",),
            "pg_type AS t JOIN pg_namespace AS n ON n.oid = t.typnamespace WHERE {scope n.nspname}",
            named="t.typname",
        ),
    ),
    Probe(
        name="privileges.schemas",
        observes="rights on the schemas of the lease and of the system",
        run=_matrix(
            "schema",
            "n.oid",
            ("USAGE", "CREATE"),
            "pg_namespace AS n WHERE {scope n.nspname} OR n.nspname IN ('public', 'pg_catalog', 'information_schema')",
            named="n.nspname",
        ),
    ),
    Probe(
        name="privileges.database",
        observes="rights on the database",
        run=_matrix(
            "database",
            "datname",
            ("CONNECT", "CREATE", "TEMPORARY"),
            "pg_database WHERE datname = {database}",
        ),
    ),
    Probe(
        name="privileges.languages",
        observes="rights on languages",
        run=_matrix("language", "lanname", ("USAGE",), "pg_language"),
    ),
    Probe(
        name="privileges.tablespaces",
        observes="rights on the tablespaces of the system",
        run=_matrix("tablespace", "spcname", ("CREATE",), "pg_tablespace WHERE spcname ~ '^pg_'"),
    ),
    Probe(
        name="privileges.parameters",
        observes="rights on settings that a superuser gave",
        run=_matrix("parameter", "name", ("SET", "ALTER SYSTEM"), "pg_settings"),
    ),
    Probe(
        name="privileges.predefined_roles",
        observes="membership in the roles of the system and in the role itself",
        run=Query(
            "SELECT rolname, pg_has_role({role}, oid, 'MEMBER') AS member, pg_has_role({role}, oid, 'USAGE') AS usage"
            " FROM pg_roles WHERE rolname ~ '^pg_' OR rolname = {role}",
            key=1,
        ),
    ),
    Probe(
        name="privileges.system_catalogs",
        observes="catalogs, views and functions of the system that the login may not use",
        run=Query(
            "SELECT oid::regclass::text AS name FROM pg_class WHERE relnamespace IN ('pg_catalog'::regnamespace,"
            " 'information_schema'::regnamespace) AND relkind IN ('r', 'v') AND NOT has_table_privilege(oid, 'SELECT')"
            " UNION ALL SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace"
            " AND NOT has_function_privilege(oid, 'EXECUTE')",
            bag=True,
        ),
        isolations=DATABASE,
    ),
)
