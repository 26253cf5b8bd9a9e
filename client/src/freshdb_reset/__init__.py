"""freshdb_reset: find what changed in a PostgreSQL database, and make it clean again in place.

This package works on connections that it is given (the protocols in ``connection``). It imports no driver, and neither the
service nor the client of freshdb. The service uses it on databases that it has fenced, and ``freshdb.toolkit.cleanup`` on
the developer's own database. Other code imports from this page only.

=======================  ============================================================================================
``table_model``          tables, foreign keys and sequences of a template
``catalog_fingerprint``  a hash over all definitions
``baseline``             the definition of a clean database, and the statistics at that moment (``Mark``)
``clean_state``          baseline, mark and template's profile: the state that a used database should have again
``change_detection``     inspection: the tables, sequences and catalogs that changed
``catalog_diff``         whether changed catalogs still hold the same definitions
``plan``                 the cheapest steps that are enough, in an order from ``foreign_key_order``
``cleaning``             the execution of these steps
``audit``                the full comparison with the template
``verdict``              ``Unprovable``: cleaning is not proved to be enough
=======================  ============================================================================================
"""

from freshdb_reset.audit import Digest, audit_differences, differences, differences_of_catalogs, read_digest
from freshdb_reset.baseline import (
    OIDS,
    Baseline,
    KnownState,
    Mark,
    Site,
    read_baseline,
    read_mark,
    read_mark_without_counters,
)
from freshdb_reset.catalog_diff import check_definitions
from freshdb_reset.catalog_fingerprint import Catalogs, Extent, written_since, xid
from freshdb_reset.change_detection import Inspection, InspectionQuery, WrittenTable, inspect_catalogs
from freshdb_reset.clean_state import SEED_BYTES, SEED_ROWS, CleanState, TemplateProfile, read_profile
from freshdb_reset.cleaning import clean
from freshdb_reset.connection import FORMATS
from freshdb_reset.foreign_key_order import CircularReferences
from freshdb_reset.plan import Plan, make_plan, plan_emptying
from freshdb_reset.quoting import constant, quoted
from freshdb_reset.table_model import Qualified, TableModel, full_name, read_table_model
from freshdb_reset.verdict import Cause, Leftovers, Unprovable

__all__ = [
    "FORMATS",
    "OIDS",
    "SEED_BYTES",
    "SEED_ROWS",
    "Baseline",
    "Catalogs",
    "Cause",
    "CircularReferences",
    "CleanState",
    "Digest",
    "Extent",
    "Inspection",
    "InspectionQuery",
    "KnownState",
    "Leftovers",
    "Mark",
    "Plan",
    "Qualified",
    "Site",
    "TableModel",
    "TemplateProfile",
    "Unprovable",
    "WrittenTable",
    "audit_differences",
    "check_definitions",
    "clean",
    "constant",
    "differences",
    "differences_of_catalogs",
    "full_name",
    "inspect_catalogs",
    "make_plan",
    "plan_emptying",
    "quoted",
    "read_baseline",
    "read_digest",
    "read_mark",
    "read_mark_without_counters",
    "read_profile",
    "read_table_model",
    "written_since",
    "xid",
]
