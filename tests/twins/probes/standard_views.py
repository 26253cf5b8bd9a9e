"""Probes of information_schema, which ORMs and migration tools read."""

from __future__ import annotations

from typing import Final

from tests.twins.probes.probe import Probe
from tests.twins.probes.session import Query

_BY_SCHEMA: Final = {
    "tables": "table_schema",
    "table_constraints": "table_schema",
    "key_column_usage": "table_schema",
    "referential_constraints": "constraint_schema",
    "check_constraints": "constraint_schema",
    "constraint_column_usage": "table_schema",
    "triggers": "trigger_schema",
    "triggered_update_columns": "trigger_schema",
    "views": "table_schema",
    "view_column_usage": "table_schema",
    "sequences": "sequence_schema",
    "routines": "routine_schema",
    "parameters": "specific_schema",
    "role_table_grants": "table_schema",
    "table_privileges": "table_schema",
    "column_privileges": "table_schema",
    "role_routine_grants": "specific_schema",
    "routine_privileges": "specific_schema",
    "usage_privileges": "object_schema",
    "role_usage_grants": "object_schema",
    "domains": "domain_schema",
    "domain_constraints": "constraint_schema",
    "user_defined_types": "user_defined_type_schema",
    "element_types": "object_schema",
    "foreign_tables": "foreign_table_schema",
}
_WITH_OIDS: Final = frozenset(("specific_name",))
"""The specific name of a routine ends with its oid."""

PROBES: Final = (
    *(
        Probe(
            name=f"information_schema.{view}",
            observes=f"information_schema.{view} of the lease's schemas",
            run=Query(
                f"SELECT v.* FROM information_schema.{view} AS v WHERE {{scope {column}}}",
                bag=True,
                without=_WITH_OIDS,
            ),
        )
        for view, column in _BY_SCHEMA.items()
    ),
    Probe(
        name="information_schema.columns",
        observes="information_schema.columns. ordinal_position has gaps where a column was dropped",
        run=Query(
            "SELECT table_schema, table_name, column_name, v.* FROM information_schema.columns AS v"
            " WHERE {scope table_schema}",
            key=3,
        ),
    ),
    Probe(
        name="information_schema.schemata",
        observes="the schemas that the login owns",
        run=Query(
            "SELECT * FROM information_schema.schemata WHERE schema_name !~ '^pg_(toast_)?temp_'", bag=True
        ),
    ),
    Probe(
        name="information_schema.roles",
        observes="roles that the login is a member of: enabled_roles and applicable_roles",
        run=Query(
            "SELECT role_name, NULL AS grantee, NULL AS grantable FROM information_schema.enabled_roles"
            " UNION ALL SELECT role_name, grantee, is_grantable FROM information_schema.applicable_roles",
            bag=True,
        ),
    ),
    Probe(
        name="information_schema.foreign_data",
        observes="foreign data wrappers, servers and user mappings that the login may see",
        run=Query(
            "SELECT 'wrapper', foreign_data_wrapper_name::text FROM information_schema.foreign_data_wrappers"
            " UNION ALL SELECT 'server', foreign_server_name FROM information_schema.foreign_servers"
            " UNION ALL SELECT 'mapping', foreign_server_name FROM information_schema.user_mappings",
            bag=True,
        ),
    ),
)
