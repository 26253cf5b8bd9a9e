"""The contents of a database, read without freshdb, to compare it with a copy of its template."""

from __future__ import annotations

import psycopg
from psycopg.sql import SQL, Identifier


def contents(dsn: str) -> dict[str, list[str]]:
    """Return every row of every table as text, and the state of every sequence."""
    found: dict[str, list[str]] = {}
    with psycopg.connect(dsn, autocommit=True) as connection:
        relations = connection.execute(
            "SELECT n.nspname, c.relname, c.relkind FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE c.relkind IN ('r', 'S') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"
        ).fetchall()
        for schema, name, kind in relations:
            expression = SQL("last_value::text || is_called::text" if kind == "S" else "t::text")
            query = SQL("SELECT {} FROM ONLY {} t").format(expression, Identifier(schema, name))
            if kind == "S":
                query = SQL("SELECT {} FROM {} t").format(expression, Identifier(schema, name))
            found[f"{schema}.{name}"] = sorted(row[0] for row in connection.execute(query).fetchall())
    return found


def execute(dsn: str, *statements: str) -> None:
    """Execute each statement in its own transaction."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())
