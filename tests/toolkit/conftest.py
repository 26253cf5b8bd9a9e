"""Real databases for the toolkit: one for each schema and test process, and clones of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count

import psycopg
import pytest
from sqlalchemy import make_url

from tests.servers import PostgresServer

_NUMBERS = count()

_CHANGE_OWNER = """
DO $$
DECLARE one record;
BEGIN
    EXECUTE format('ALTER DATABASE %I OWNER TO {role}', current_database());
    FOR one IN SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' LOOP
        EXECUTE format('ALTER SCHEMA %I OWNER TO {role}', one.nspname);
    END LOOP;
    FOR one IN SELECT oid::regclass AS name FROM pg_class WHERE oid >= 16384 AND relkind IN ('r', 'p', 'v') LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO {role}', one.name);
    END LOOP;
    FOR one IN SELECT oid::regclass AS name FROM pg_class c WHERE oid >= 16384 AND relkind = 'S' AND NOT EXISTS (
            SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype IN ('a', 'i')) LOOP
        EXECUTE format('ALTER SEQUENCE %s OWNER TO {role}', one.name);
    END LOOP;
END $$
"""


@dataclass
class Databases:
    """Creates databases on one server, and drops them."""

    server: str
    templates: dict[str, str] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)

    def clone(self, sql: str) -> str:
        """Return the DSN of a new database with the objects of this SQL."""
        if sql not in self.templates:
            name = self.templates[sql] = self._create("template0")
            with psycopg.connect(self._dsn(name), autocommit=True) as connection:
                connection.execute(sql.encode())
        return self._dsn(self._create(self.templates[sql]))

    def _create(self, template: str) -> str:
        self.names.append(f"toolkit_{os.getpid()}_{next(_NUMBERS)}")
        self._execute(f"CREATE DATABASE {self.names[-1]} TEMPLATE {template}")
        return self.names[-1]

    def drop(self) -> None:
        while self.names:
            self._execute(f"DROP DATABASE {self.names.pop()} WITH (FORCE)")

    @contextmanager
    def plain_role(self, dsn: str) -> Iterator[str]:
        """Yield the DSN of a role that owns all objects of this database, and is not a superuser."""
        role = f"plain_{os.getpid()}_{next(_NUMBERS)}"
        database = make_url(dsn).database
        self._execute(f"CREATE ROLE {role} LOGIN PASSWORD 'plain' IN ROLE pg_read_all_data")
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(_CHANGE_OWNER.replace("{role}", role).encode())
        try:
            yield make_url(dsn).set(username=role, password="plain").render_as_string(hide_password=False)
        finally:
            self._execute(f"DROP DATABASE {database} WITH (FORCE)")
            self.names.remove(str(database))
            self._execute(f"DROP ROLE {role}")

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self.server, autocommit=True) as connection:
            connection.execute(statement.encode())

    def _dsn(self, database: str) -> str:
        return make_url(self.server).set(database=database).render_as_string(hide_password=False)


@pytest.fixture(scope="module")
def databases(postgres_18: PostgresServer) -> Iterator[Databases]:
    databases = Databases(postgres_18.dsn)
    yield databases
    databases.drop()
