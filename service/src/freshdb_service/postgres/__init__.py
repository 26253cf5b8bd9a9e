"""All operations on managed PostgreSQL servers. No other package of the service imports asyncpg.

=============  ======================================================================================================
``server``     one managed server: its connections, capabilities, deny list, idle sessions, control database
``names``      names of freshdb's objects, and quoting
``ownership``  the objects of this installation on a server, by prefix and stamp
``roles``      logins
``blockers``   terminating sessions of holders that block the service
``fencing``    disabling a login, and terminating its sessions
``drop``       dropping databases, schemas, roles and templates
``provision``  templates and builds, clones (isolation ``database``), schemas in a shared database (isolation ``schema``)
``reset``      turning a used database into a clean one, in place with ``freshdb_reset``, or by a rebuild
=============  ======================================================================================================

Each package imports only those above it.
"""

from freshdb_reset import Baseline, Cause, KnownState, Leftovers, Mark, Site
from freshdb_service.postgres.drop import drop_database, drop_owned, drop_schema, drop_shared, drop_template
from freshdb_service.postgres.fencing.close_login import close_login
from freshdb_service.postgres.ownership import (
    OutdatedDatabase,
    OwnedObject,
    database_sizes,
    foreign_databases,
    inventory,
    outdated_databases,
)
from freshdb_service.postgres.provision.blueprint import Blueprint
from freshdb_service.postgres.provision.clone import provision_database
from freshdb_service.postgres.provision.extensions import Extension, ExtensionForm, read_extensions
from freshdb_service.postgres.provision.schema import provision_schema
from freshdb_service.postgres.provision.shared_database import prepare_shared
from freshdb_service.postgres.provision.sql_scripts import has_statements, run_sql
from freshdb_service.postgres.provision.template import create_build, seal
from freshdb_service.postgres.reset import (
    CleaningEngine,
    CopySource,
    Fenced,
    ResetEngine,
    ResetOutcome,
    UsedDatabase,
)
from freshdb_service.postgres.server.activity import Activity, activity
from freshdb_service.postgres.server.capabilities import refuse_foreign_databases
from freshdb_service.postgres.server.connections import Login, ignore_lost_connections
from freshdb_service.postgres.server.control_database import close_control_database, ensure_control_database
from freshdb_service.postgres.server.options import ServerOptions
from freshdb_service.postgres.server.server import Server
from freshdb_service.postgres.server.vacuum import vacuum_shared_catalogs

__all__ = [
    "Activity",
    "Baseline",
    "Blueprint",
    "Cause",
    "CleaningEngine",
    "CopySource",
    "Extension",
    "ExtensionForm",
    "Fenced",
    "KnownState",
    "Leftovers",
    "Login",
    "Mark",
    "OutdatedDatabase",
    "OwnedObject",
    "ResetEngine",
    "ResetOutcome",
    "Server",
    "ServerOptions",
    "Site",
    "UsedDatabase",
    "activity",
    "close_control_database",
    "close_login",
    "create_build",
    "database_sizes",
    "drop_database",
    "drop_owned",
    "drop_schema",
    "drop_shared",
    "drop_template",
    "ensure_control_database",
    "foreign_databases",
    "has_statements",
    "ignore_lost_connections",
    "inventory",
    "outdated_databases",
    "prepare_shared",
    "provision_database",
    "provision_schema",
    "read_extensions",
    "refuse_foreign_databases",
    "run_sql",
    "seal",
    "vacuum_shared_catalogs",
]
