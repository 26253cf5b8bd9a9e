"""Managed PostgreSQL servers: everything that is done to them, and the only place that knows asyncpg.

=================  ==================================================================================================
``server``         one managed server, and the connections to it
``facts``          what a server says of itself, and whether it may be managed (``denial``)
``activity``       how busy a server is
``control``        the control plane's own database
``identifiers``    names; the only place that quotes
``ownership``      what on a server is ours: the prefix and the stamp
``roles``          logins
``fence``          shutting a login out
``grip``           what its holder holds on to, and is in our way
``templates``      builds, and sealing them; ``scripts`` runs a template's SQL
``databases``      isolation ``database``: cloning a template
``schemas``        isolation ``schema``: one more schema in a shared database, which ``shared`` prepares
``removal``        dropping all of these
``leftovers``      closing a login at once, and what its holder left open
``reset``          making a used database clean: what engines do, and the one that rebuilds
``clean``          freshdb's own engine. It looks (``baseline``, ``look``), judges (``judging``, ``catalogs``), cleans
                   (``cleaning``), knows its templates (``knowledge``, ``picture``), keeps sessions open for that
                   (``sessions``), and now and then compares in full (``audit``)
=================  ==================================================================================================
"""

from freshdb_service.postgres.drop import drop_database, drop_schema, drop_shared, drop_template
from freshdb_service.postgres.fencing.close_login import close_login
from freshdb_service.postgres.ownership import OwnedObject
from freshdb_service.postgres.provision.blueprint import Blueprint
from freshdb_service.postgres.provision.clone import provision_database
from freshdb_service.postgres.provision.schema import provision_schema
from freshdb_service.postgres.provision.shared_database import prepare_shared
from freshdb_service.postgres.provision.sql_scripts import run_sql
from freshdb_service.postgres.provision.template import Sealed, create_build, seal
from freshdb_service.postgres.reset.baseline import Baseline, Cause, Leftovers, Mark, Site
from freshdb_service.postgres.reset.cleaning_engine import CleaningEngine
from freshdb_service.postgres.reset.engine import (
    CopySource,
    Fenced,
    KnownState,
    RebuildEngine,
    ResetEngine,
    ResetOutcome,
    UsedDatabase,
)
from freshdb_service.postgres.roles import Login
from freshdb_service.postgres.server.activity import Activity, activity
from freshdb_service.postgres.server.capabilities import refuse_for_others
from freshdb_service.postgres.server.connections import forgive_lost_connections
from freshdb_service.postgres.server.control_database import close_control_database, ensure_control_database
from freshdb_service.postgres.server.server import Server, ServerOptions

__all__ = [
    "Activity",
    "Baseline",
    "Blueprint",
    "Cause",
    "CleaningEngine",
    "CopySource",
    "Fenced",
    "KnownState",
    "Leftovers",
    "Login",
    "Mark",
    "OwnedObject",
    "RebuildEngine",
    "ResetEngine",
    "ResetOutcome",
    "Sealed",
    "Server",
    "ServerOptions",
    "Site",
    "UsedDatabase",
    "activity",
    "close_control_database",
    "close_login",
    "create_build",
    "drop_database",
    "drop_schema",
    "drop_shared",
    "drop_template",
    "ensure_control_database",
    "forgive_lost_connections",
    "prepare_shared",
    "provision_database",
    "provision_schema",
    "refuse_for_others",
    "run_sql",
    "seal",
]
