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
``storage``              sizes, positions of rows, and what PostgreSQL's planner reads
``storage_diff``         the tables whose statistics are not the template's any more
``plan``                 the cheapest steps that are enough, in an order from ``foreign_key_order``
``cleaning``             the execution of these steps, and the comparison of the storage afterwards
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
    read_mark_with_counters_reset,
    read_mark_without_counters,
)
from freshdb_reset.catalog_diff import check_definitions
from freshdb_reset.catalog_fingerprint import Catalogs, Extent, written_since, xid
from freshdb_reset.change_detection import Inspection, InspectionQuery, WrittenTable, inspect_catalogs
from freshdb_reset.clean_state import SEED_BYTES, SEED_ROWS, CleanState, TemplateProfile, read_profile
from freshdb_reset.cleaning import restore_rows, settle
from freshdb_reset.connection import FORMATS, Rights
from freshdb_reset.foreign_key_order import CircularReferences
from freshdb_reset.plan import Plan, make_plan, plan_emptying
from freshdb_reset.quoting import constant, quoted
from freshdb_reset.storage_diff import StorageChanges, find_storage_changes
from freshdb_reset.table_model import COUNTED_PAGES, Qualified, TableModel, full_name, read_table_model
from freshdb_reset.verdict import Cause, Leftovers, Unprovable

__all__ = [
    "COUNTED_PAGES",
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
    "Rights",
    "Site",
    "StorageChanges",
    "TableModel",
    "TemplateProfile",
    "Unprovable",
    "WrittenTable",
    "audit_differences",
    "check_definitions",
    "constant",
    "differences",
    "differences_of_catalogs",
    "find_storage_changes",
    "full_name",
    "inspect_catalogs",
    "make_plan",
    "plan_emptying",
    "quoted",
    "read_baseline",
    "read_digest",
    "read_mark",
    "read_mark_with_counters_reset",
    "read_mark_without_counters",
    "read_profile",
    "read_table_model",
    "restore_rows",
    "settle",
    "written_since",
    "xid",
]
