"""Probes of the definitions of the lease's objects in the system catalogs."""

from __future__ import annotations

from typing import Final

from tests.twins.probes.probe import Probe
from tests.twins.probes.session import Query

_CLASS: Final = "pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace AND {scope n.nspname}"

PROBES: Final = (
    Probe(
        name="definitions.relations",
        observes="owner, kind, options, access method, tablespace, partition bound and rights of every relation",
        run=Query(
            "SELECT n.nspname, c.relname, c.relkind, c.relpersistence, pg_get_userbyid(c.relowner) AS owner, c.reloptions,"
            " am.amname, c.reltablespace, c.relacl, pg_get_expr(c.relpartbound, c.oid) AS bound,"
            " pg_get_partkeydef(c.oid) AS partition_key, c.reloftype, c.relrewrite"
            f" FROM {_CLASS} LEFT JOIN pg_am AS am ON am.oid = c.relam",
            key=2,
        ),
    ),
    Probe(
        name="definitions.columns",
        observes="every column in pg_attribute, also dropped ones and those of indexes",
        run=Query(
            "SELECT n.nspname, c.relname, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod) AS type, a.attlen,"
            " a.attnotnull, a.atthasdef, a.atthasmissing, a.attmissingval, a.attidentity, a.attgenerated, a.attisdropped,"
            " a.attislocal, a.attinhcount, a.attstorage, a.attcompression, a.attcollation::regcollation AS collation,"
            f" a.attacl, a.attoptions, a.attndims FROM {_CLASS} JOIN pg_attribute AS a ON a.attrelid = c.oid"
            " WHERE a.attnum > 0",
            key=3,
        ),
    ),
    Probe(
        name="definitions.defaults",
        observes="default values and generated columns",
        run=Query(
            "SELECT c.relname, d.adnum, pg_get_expr(d.adbin, d.adrelid) AS value"
            f" FROM {_CLASS} JOIN pg_attrdef AS d ON d.adrelid = c.oid",
            key=2,
        ),
    ),
    Probe(
        name="definitions.constraints",
        observes="pg_get_constraintdef of all constraints, also of domains, and their flags",
        run=Query(
            "SELECT coalesce(c.relname, t.typname) AS parent, o.conname, pg_get_constraintdef(o.oid) AS definition,"
            " o.contype, o.condeferrable, o.condeferred, o.convalidated, o.conislocal, o.coninhcount, o.connoinherit"
            " FROM pg_constraint AS o JOIN pg_namespace AS n ON n.oid = o.connamespace AND {scope n.nspname}"
            " LEFT JOIN pg_class AS c ON c.oid = o.conrelid LEFT JOIN pg_type AS t ON t.oid = o.contypid",
            key=2,
        ),
    ),
    Probe(
        name="definitions.indexes",
        observes="pg_get_indexdef of all indexes, and their flags. indcheckxmin shows that an index was built while"
        " the table had rows of open transactions",
        run=Query(
            "SELECT c.relname, pg_get_indexdef(i.indexrelid) AS definition, i.indisunique, i.indisprimary,"
            " i.indisexclusion, i.indimmediate, i.indisclustered, i.indisvalid, i.indcheckxmin, i.indisready,"
            f" i.indislive, i.indisreplident FROM {_CLASS} JOIN pg_index AS i ON i.indexrelid = c.oid",
            key=1,
        ),
    ),
    Probe(
        name="definitions.views",
        observes="pg_get_viewdef of views and materialized views",
        run=Query(
            f"SELECT c.relname, pg_get_viewdef(c.oid) AS definition FROM {_CLASS} WHERE c.relkind IN ('v', 'm')",
            key=1,
        ),
    ),
    Probe(
        name="definitions.rules",
        observes="pg_get_ruledef of all rules",
        run=Query(
            "SELECT c.relname, r.rulename, pg_get_ruledef(r.oid) AS definition, r.ev_enabled"
            f" FROM {_CLASS} JOIN pg_rewrite AS r ON r.ev_class = c.oid",
            key=2,
        ),
    ),
    Probe(
        name="definitions.functions",
        observes="pg_get_functiondef of all functions, their owners and rights",
        run=Query(
            "SELECT p.oid::regprocedure::text AS name, p.prokind, pg_get_userbyid(p.proowner) AS owner, p.proacl, p.prosrc,"
            " p.proconfig, p.procost, CASE WHEN p.prokind <> 'a' THEN pg_get_functiondef(p.oid) END AS definition"
            " FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace WHERE {scope n.nspname}",
            key=1,
        ),
    ),
    Probe(
        name="definitions.triggers",
        observes="pg_get_triggerdef of all triggers, also of the internal ones of foreign keys, and if they are enabled",
        run=Query(
            "SELECT c.relname, t.tgname, pg_get_triggerdef(t.oid) AS definition, t.tgenabled, t.tgisinternal, t.tgdeferrable"
            f" FROM {_CLASS} JOIN pg_trigger AS t ON t.tgrelid = c.oid",
            bag=True,
        ),
    ),
    Probe(
        name="definitions.statistics",
        observes="pg_get_statisticsobjdef of all extended statistics",
        run=Query(
            "SELECT s.stxname, pg_get_statisticsobjdef(s.oid) AS definition, s.stxkind, pg_get_userbyid(s.stxowner) AS owner"
            " FROM pg_statistic_ext AS s JOIN pg_namespace AS n ON n.oid = s.stxnamespace WHERE {scope n.nspname}",
            key=1,
        ),
    ),
    Probe(
        name="definitions.sequences",
        observes="pg_sequence, and the column that owns each sequence",
        run=Query(
            "SELECT c.relname, s.seqtypid::regtype AS type, s.seqstart, s.seqincrement, s.seqmax, s.seqmin, s.seqcache,"
            " s.seqcycle, format('%s.%s %s', d.refobjid::regclass, d.refobjsubid, d.deptype) AS owner"
            f" FROM {_CLASS} JOIN pg_sequence AS s ON s.seqrelid = c.oid LEFT JOIN pg_depend AS d"
            " ON d.objid = c.oid AND d.classid = 'pg_class'::regclass AND d.refobjsubid > 0",
            key=1,
        ),
    ),
    Probe(
        name="definitions.inheritance",
        observes="partitions and their parents",
        run=Query(
            "SELECT c.relname, i.inhparent::regclass AS parent, i.inhseqno, i.inhdetachpending"
            f" FROM {_CLASS} JOIN pg_inherits AS i ON i.inhrelid = c.oid",
            bag=True,
        ),
    ),
    Probe(
        name="definitions.policies",
        observes="policies of row security",
        run=Query("SELECT * FROM pg_policies WHERE {scope schemaname}", bag=True),
    ),
    Probe(
        name="definitions.types",
        observes="all types, also those of rows and arrays, with their owners and rights",
        run=Query(
            "SELECT t.typname, t.typtype, t.typcategory, t.typlen, t.typnotnull, t.typdefault, t.typacl,"
            " t.typbasetype::regtype AS base, t.typrelid::regclass AS relation, pg_get_userbyid(t.typowner) AS owner"
            " FROM pg_type AS t JOIN pg_namespace AS n ON n.oid = t.typnamespace WHERE {scope n.nspname}",
            key=1,
        ),
    ),
    Probe(
        name="definitions.enums_and_ranges",
        observes="values of enumerations, and ranges",
        run=Query(
            "SELECT t.typname, e.enumlabel, e.enumsortorder FROM pg_enum AS e JOIN pg_type AS t ON t.oid = e.enumtypid"
            " JOIN pg_namespace AS n ON n.oid = t.typnamespace WHERE {scope n.nspname}"
            " UNION ALL SELECT t.typname, r.rngsubtype::regtype::text, NULL FROM pg_range AS r"
            " JOIN pg_type AS t ON t.oid = r.rngtypid JOIN pg_namespace AS n ON n.oid = t.typnamespace"
            " WHERE {scope n.nspname}",
            bag=True,
        ),
    ),
    Probe(
        name="definitions.rarer_objects",
        observes="operators, operator classes and families, collations, conversions and objects of text search",
        run=Query(
            " UNION ALL ".join(
                f"SELECT '{catalog}' AS catalog, x.{name}::text AS name, pg_get_userbyid(x.{owner}) AS owner"
                f" FROM {catalog} AS x JOIN pg_namespace AS n ON n.oid = x.{namespace} WHERE {{scope n.nspname}}"
                for catalog, name, namespace, owner in (
                    ("pg_operator", "oprname", "oprnamespace", "oprowner"),
                    ("pg_opclass", "opcname", "opcnamespace", "opcowner"),
                    ("pg_opfamily", "opfname", "opfnamespace", "opfowner"),
                    ("pg_collation", "collname", "collnamespace", "collowner"),
                    ("pg_conversion", "conname", "connamespace", "conowner"),
                    ("pg_ts_config", "cfgname", "cfgnamespace", "cfgowner"),
                    ("pg_ts_dict", "dictname", "dictnamespace", "dictowner"),
                )
            ),
            bag=True,
        ),
    ),
    Probe(
        name="definitions.dependencies",
        observes="numbers of rows of pg_depend of the lease's relations, by kind",
        run=Query(
            "SELECT c.relname, d.classid::regclass AS of, d.refclassid::regclass AS on, d.deptype, count(*)"
            f" FROM {_CLASS} JOIN pg_depend AS d ON d.objid = c.oid OR d.refobjid = c.oid GROUP BY 1, 2, 3, 4",
            key=4,
        ),
    ),
    Probe(
        name="definitions.comments",
        observes="comments on relations, columns, functions, types, constraints, schemas and other objects",
        run=Query(
            "SELECT o.type, o.identity, d.description FROM pg_description AS d,"
            " pg_identify_object(d.classoid, d.objoid, d.objsubid) AS o"
            " WHERE d.objoid >= 16384 AND ({scope o.schema} OR o.schema IS NULL AND"
            " ({own_database} OR o.identity ~ {role_word}))"
            " UNION ALL SELECT 'public', NULL, obj_description('public'::regnamespace, 'pg_namespace')",
            bag=True,
        ),
    ),
)
