"""Fresh databases and schemas for tests of the probes, created without the service.

The template is loaded with ``track_counts = off``. Without counters, autovacuum never visits the template, so that all
clones are the same.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import psycopg

from tests.limits import LIMIT_SECONDS
from tests.twins.probes import Isolation

TEMPLATE: Final = Path(__file__).with_name("template.sql")
VACUUMED: Final = "customer"
"""The template has no table with a visibility map. Tests of the probes add one."""


@dataclass(frozen=True, slots=True)
class Clone:
    """A database, or a schema in a shared database, with the login that owns it."""

    dsn: str
    superuser_dsn: str
    isolation: Isolation
    role: str

    def execute(self, *statements: str, superuser: bool = False) -> None:
        """Run each statement in a transaction of its own, then report the session's counters."""
        with psycopg.connect(self.superuser_dsn if superuser else self.dsn, autocommit=True) as connection:
            for statement in (*statements, "SELECT pg_stat_force_next_flush()"):
                connection.execute(statement.replace("{role}", self.role))


class TemplateDatabase:
    """A loaded database that allows no connections, and its clones."""

    def __init__(self, dsn: str) -> None:
        """Load the template."""
        self._dsn = dsn
        self._name = f"twin_template_{secrets.token_hex(4)}"
        self._builder = f"twin_builder_{secrets.token_hex(4)}"
        with psycopg.connect(dsn, autocommit=True) as admin:
            admin.execute(f"CREATE ROLE {self._builder}")
            admin.execute(f"CREATE DATABASE {self._name} OWNER {self._builder}")
            _load(_with(dsn, database=self._name), self._builder)
            admin.execute(f"ALTER DATABASE {self._name} OWNER TO CURRENT_USER")
            admin.execute(f"ALTER DATABASE {self._name} ALLOW_CONNECTIONS false")

    @contextmanager
    def clone(self) -> Iterator[Clone]:
        """Create a clone that a new login owns, and drop both."""
        name, role = f"twin_db_{secrets.token_hex(4)}", f"twin_role_{secrets.token_hex(4)}"
        superuser_dsn = _with(self._dsn, database=name)
        with psycopg.connect(self._dsn, autocommit=True) as admin:
            admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{role}'")
            admin.execute(f"CREATE DATABASE {name} TEMPLATE {self._name} OWNER {role}")
            try:
                with psycopg.connect(superuser_dsn, autocommit=True) as owner:
                    owner.execute(f"REASSIGN OWNED BY {self._builder} TO {role}")
                yield Clone(_with(self._dsn, name, role), superuser_dsn, "database", role)
            finally:
                _roll_back_prepared(superuser_dsn, role)
                admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
                _drop_role(admin, role)

    def drop(self) -> None:
        """Drop the template."""
        with psycopg.connect(self._dsn, autocommit=True) as admin:
            admin.execute(f"DROP DATABASE {self._name} WITH (FORCE)")
            _drop_role(admin, self._builder)


class SharedDatabase:
    """A database in which each login has a schema with the template's tables."""

    def __init__(self, dsn: str) -> None:
        """Create the database."""
        self._dsn = dsn
        self._name = f"twin_shared_{secrets.token_hex(4)}"
        with psycopg.connect(dsn, autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {self._name}")

    @contextmanager
    def schema(self) -> Iterator[Clone]:
        """Create a login and its schema, and drop both."""
        role = f"twin_role_{secrets.token_hex(4)}"
        superuser_dsn = _with(self._dsn, database=self._name)
        with psycopg.connect(superuser_dsn, autocommit=True) as admin:
            admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{role}'")
            admin.execute(f"CREATE SCHEMA {role} AUTHORIZATION {role}")
            _load(superuser_dsn, role)
            try:
                yield Clone(_with(self._dsn, self._name, role), superuser_dsn, "schema", role)
            finally:
                _roll_back_prepared(superuser_dsn, role)
                _drop_role(admin, role)

    def drop(self) -> None:
        """Drop the database."""
        with psycopg.connect(self._dsn, autocommit=True) as admin:
            admin.execute(f"DROP DATABASE {self._name} WITH (FORCE)")


def _load(superuser_dsn: str, role: str) -> None:
    with psycopg.connect(superuser_dsn, autocommit=True) as connection:
        connection.execute("SET track_counts = off")
        connection.execute(f"SET ROLE {role}")
        connection.execute(TEMPLATE.read_text())
        until = time.monotonic() + LIMIT_SECONDS
        while not _is_visible(connection):  # a snapshot of another session, such as autovacuum's, delays this
            assert time.monotonic() < until, f"VACUUM cannot mark the rows of {VACUUMED} as visible to all"
            connection.execute(f"VACUUM {VACUUMED}")


def _is_visible(connection: psycopg.Connection[tuple[object, ...]]) -> bool:
    found = connection.execute(
        f"SELECT relallvisible > 0 FROM pg_class WHERE oid = '{VACUUMED}'::regclass"
    ).fetchone()
    return found == (True,)


def _with(dsn: str, database: str, role: str | None = None) -> str:
    """Return a DSN for another database, and with a role for its login."""
    parts = urlsplit(dsn)
    place = parts.netloc if role is None else f"{role}:{role}@{parts.hostname}:{parts.port}"
    return urlunsplit(parts._replace(netloc=place, path=f"/{database}"))


def _drop_role(admin: psycopg.Connection[tuple[object, ...]], role: str) -> None:
    admin.execute(f"DROP OWNED BY {role} CASCADE")
    admin.execute(f"DROP ROLE {role}")


def _roll_back_prepared(dsn: str, role: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        found = connection.execute(f"SELECT gid FROM pg_prepared_xacts WHERE owner = '{role}'").fetchall()
        for (gid,) in found:
            connection.execute(f"ROLLBACK PREPARED '{gid}'")
