"""Where the service's source changes or drops what is on a managed server, and how that is known to be ours.

A new statement of this kind has to be entered here, with its reason.
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
    # Dropped. Each is looked up by prefix and stamp (``ownership``) in the moment before.
    "postgres/drop.py": {"ALTER DATABASE", "ALTER ROLE", "DROP DATABASE", "DROP SCHEMA"},
    # The role was looked up by prefix and stamp; closed and dropped with what it has, and nothing of others'.
    "postgres/roles.py": {"ALTER ROLE", "DROP OWNED", "DROP ROLE", "pg_terminate_backend"},
    # Databases are looked up by prefix and stamp; sessions are ended, and transactions rolled back, of our logins alone.
    "postgres/blockers.py": {"ALTER DATABASE", "ROLLBACK PREPARED", "pg_terminate_backend"},
    # Sessions of our logins, and of whoever is in one of our databases.
    "postgres/fencing/fence.py": {"pg_terminate_backend"},
    "postgres/fencing/close_login.py": {"pg_terminate_backend"},
    # The login's name comes from the store's row. Renaming it begins the transaction that cleans.
    "postgres/reset/login_handover.py": {"ALTER ROLE", "UPDATE pg_authid"},
    # Runs on a connection that is given: after that renaming, or in the developer's own database.
    "freshdb_reset/plan.py": {"TRUNCATE", "UPDATE ONLY", "DELETE FROM"},
    "freshdb_reset/cleaning.py": {"TRUNCATE"},  # an option of VACUUM
    # Only of what was made a moment before, by the same operation, under a name of ours (which must not exist before).
    "postgres/provision/clone.py":
        {"ALTER DATABASE", "ALTER SCHEMA", "ALTER ROLE", "ALTER DEFAULT PRIVILEGES", "ALTER POLICY", "DROP OWNED",
         "REASSIGN OWNED", "REVOKE"},
    "postgres/provision/schema.py": {"ALTER ROLE", "REVOKE"},
    "postgres/provision/shared_database.py": {"ALTER SCHEMA", "ALTER EXTENSION", "ALTER TABLE", "REVOKE"},
    # The build's database is looked up by prefix and stamp.
    "postgres/provision/template.py": {"ALTER DATABASE", "REVOKE"},
    # The right of everybody to connect: to an embedded server's own databases; to the control plane's database.
    "postgres/server/server.py": {"REVOKE"},
    "postgres/server/control_database.py": {"REVOKE"},
    # Words that are looked for in a dump; they run as the login that the schema is made for.
    "postgres/provision/blueprint.py": {"ALTER", "ALTER TABLE"},
    # A message that says what a superuser may do.
    "postgres/server/capabilities.py": {"ALTER ROLE"},
    # The control plane's own tables.
    "migrations/versions/0001_first_schema.py": set(),
}  # fmt: skip


def statements(path: Path) -> set[str]:
    """What a module's texts, its docstrings left out, have of such statements."""
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


def test_every_statement_that_destroys_is_where_ownership_is_checked() -> None:
    found = {
        str(path.relative_to(top)): there
        for top, package in ((SOURCE, SOURCE / "postgres"), (RESET.parent, RESET))
        for path in package.rglob("*.py")
        if (there := statements(path))
    }
    assert found == {name: there for name, there in KNOWN.items() if there}


def test_nothing_outside_the_postgres_package_speaks_to_managed_servers() -> None:
    """They have the control plane's own database alone (import-linter: asyncpg only in ``postgres``)."""
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
