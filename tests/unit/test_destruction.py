"""Statements in the source that change or drop objects on a managed server, each with the reason why it is safe.

A new statement of this kind needs an entry here, with its reason.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

import freshdb_reset
import freshdb_service

SOURCE: Final = Path(freshdb_service.__file__).parent
RESET: Final = Path(freshdb_reset.__file__).parent
STATEMENT: Final = re.compile(
    r"\b(DROP|ALTER|TRUNCATE|REASSIGN|DELETE FROM|UPDATE ONLY|UPDATE pg_\w+|REVOKE|ROLLBACK PREPARED|pg_terminate_backend)\b"
    r"(?: (DATABASE|ROLE|SCHEMA|OWNED|EXTENSION|DEFAULT PRIVILEGES|POLICY|SYSTEM|TABLE))?"
)

KNOWN: Final = {
    # Each object is looked up by prefix and stamp (``ownership``) in the moment before it is dropped.
    "postgres/drop.py": {"ALTER DATABASE", "ALTER ROLE", "DROP DATABASE", "DROP SCHEMA"},
    # The role was looked up by prefix and stamp. It is closed and dropped with its own objects, and no others.
    "postgres/roles.py": {"ALTER ROLE", "DROP OWNED", "DROP ROLE", "pg_terminate_backend"},
    # Databases are looked up by prefix and stamp. Only sessions and transactions of freshdb's logins are ended.
    "postgres/blockers.py": {"ALTER DATABASE", "ROLLBACK PREPARED", "pg_terminate_backend"},
    # Sessions of freshdb's logins, and all sessions in its databases.
    "postgres/fencing/fence.py": {"pg_terminate_backend"},
    "postgres/fencing/close_login.py": {"pg_terminate_backend"},
    # The login's name comes from the store's row. Renaming it begins the transaction that cleans.
    "postgres/reset/login_handover.py": {"ALTER ROLE", "UPDATE pg_authid"},
    # Runs on a connection that is given: after that renaming, or in the developer's own database.
    "freshdb_reset/plan.py": {"TRUNCATE", "UPDATE ONLY", "DELETE FROM"},
    "freshdb_reset/cleaning.py": {"TRUNCATE"},  # an option of VACUUM
    # Planner statistics of the same database, by the names of its tables.
    "freshdb_reset/storage.py": {"DELETE FROM", "UPDATE pg_class"},
    # Only objects that the same operation has just created, under a name that must not exist before.
    "postgres/provision/clone.py":
        {"ALTER DATABASE", "ALTER SCHEMA", "ALTER ROLE", "ALTER DEFAULT PRIVILEGES", "ALTER POLICY", "DROP OWNED",
         "REASSIGN OWNED", "REVOKE"},
    "postgres/provision/schema.py": {"ALTER ROLE", "REVOKE"},
    "postgres/provision/shared_database.py": {"ALTER SCHEMA", "ALTER EXTENSION", "ALTER TABLE", "REVOKE"},
    # Rights of PUBLIC on members of extensions, in a database that the same operation has just created. TRUNCATE is a right.
    "postgres/provision/extensions.py": {"REVOKE", "TRUNCATE"},
    # The build's database is looked up by prefix and stamp.
    "postgres/provision/template.py": {"ALTER DATABASE", "REVOKE"},
    # Planner statistics in a build, or in a schema that the same operation has just created.
    "postgres/provision/planner_statistics.py": {"UPDATE pg_class"},
    # The right of PUBLIC to connect to databases of an embedded server, and to the control plane's database.
    "postgres/server/server.py": {"REVOKE"},
    "postgres/server/control_database.py": {"REVOKE"},
    # Patterns for a dump, whose statements run as the login of the new schema, or of the builder.
    "postgres/provision/blueprint.py": {"ALTER", "ALTER TABLE"},
    "postgres/provision/sql_scripts.py": {"ALTER", "ALTER TABLE"},
    # A message that says what a superuser may do.
    "postgres/server/capabilities.py": {"ALTER ROLE"},
    # The control plane's own tables.
    "migrations/versions/0001_first_schema.py": set(),
}  # fmt: skip


def statements(path: Path) -> set[str]:
    """Return such statements in the strings of a module, without its docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    documentation = {
        id(node.value)
        for parent in ast.walk(tree)
        if isinstance(parent, documented)
        for node in parent.body
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    return {
        " ".join(part for part in found if part)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation
        for found in STATEMENT.findall(node.value)
    }


def test_every_destructive_statement_is_in_a_known_module() -> None:
    found = {
        str(path.relative_to(top)): there
        for top, package in ((SOURCE, SOURCE / "postgres"), (RESET.parent, RESET))
        for path in package.rglob("*.py")
        if (there := statements(path))
    }
    assert found == {name: there for name, there in KNOWN.items() if there}


def test_only_postgres_package_has_destructive_statements() -> None:
    """Other packages use the control plane's database only (import-linter: asyncpg only in ``postgres``)."""
    destructive = {
        "DROP DATABASE",
        "DROP ROLE",
        "DROP OWNED",
        "DROP SCHEMA",
        "ALTER ROLE",
        "ALTER DATABASE",
        "TRUNCATE",
    }
    for path in SOURCE.rglob("*.py"):
        if not path.is_relative_to(SOURCE / "postgres"):
            assert not statements(path) & destructive, path
