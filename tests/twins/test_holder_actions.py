"""Each action of the catalogue does what its name says, shown without any engine: PostgreSQL accepts it, and it leaves what
it declares. Every action works on a clone of its own, with an ordinary login."""

from __future__ import annotations

import inspect
import re
import secrets
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.limits import LIMIT_SECONDS
from tests.servers import PostgresServer
from tests.twins.holder_actions import ACTIONS, Holder, HolderAction, Isolation

TEMPLATE: Final = (Path(__file__).parent / "template.sql").read_text()
CASES: Final = [(action, isolation) for action in ACTIONS for isolation in action.isolations]


@dataclass(frozen=True, slots=True)
class Template:
    """A database with the template's objects. With isolation ``schema``, a superuser owns it and the login owns a schema."""

    server: PostgresServer
    login: str
    password: str
    isolation: Isolation

    @classmethod
    @contextmanager
    def loaded(cls, server: PostgresServer, isolation: Isolation) -> Iterator[Template]:
        """Create the login and the database, and drop both at the end. The database has the login's name."""
        template = cls(server, f"twin_{secrets.token_hex(4)}", secrets.token_hex(8), isolation)
        login = template.login
        with template.superuser() as superuser:
            superuser.execute(f"CREATE ROLE {login} LOGIN PASSWORD '{template.password}'")
            superuser.execute(f"CREATE DATABASE {login}")
            if isolation == "database":
                superuser.execute(f"ALTER DATABASE {login} OWNER TO {login}")
            else:
                with template.superuser(login) as inside:
                    inside.execute(f"CREATE SCHEMA {login} AUTHORIZATION {login}")
            template.restore_settings()
            with psycopg.connect(template.dsn(login)) as connection:
                connection.execute(TEMPLATE)
            yield template
            superuser.execute(f"DROP DATABASE {login}")
            superuser.execute(f"DROP ROLE {login}")

    @contextmanager
    def clone(self) -> Iterator[str]:
        """Create a clone, and drop it at the end with everything that would prevent that. Yield its name."""
        name = f"twin_{secrets.token_hex(4)}"
        with self.superuser() as superuser:
            owner = f"OWNER {self.login}" if self.isolation == "database" else ""
            superuser.execute(f"CREATE DATABASE {name} TEMPLATE {self.login} {owner}")
            try:
                yield name
            finally:
                with self.superuser(name) as inside:
                    query = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
                    for (gid,) in inside.execute(query).fetchall():
                        inside.execute(f"ROLLBACK PREPARED '{gid}'")
                superuser.execute(f"DROP DATABASE {name} WITH (FORCE)")
                self.restore_settings()

    def restore_settings(self) -> None:
        """Give the login its first settings, which an action may have changed."""
        with self.superuser() as superuser:
            superuser.execute(f"ALTER ROLE {self.login} RESET ALL")
            if self.isolation == "schema":
                superuser.execute(f"ALTER ROLE {self.login} SET search_path = {self.login}, public")

    @contextmanager
    def superuser(self, database: str = "postgres") -> Iterator[psycopg.Connection]:
        dsn = make_conninfo(self.server.dsn, dbname=database)
        with psycopg.connect(dsn, autocommit=True) as connection:
            yield connection

    def dsn(self, database: str) -> str:
        return make_conninfo(self.server.dsn, dbname=database, user=self.login, password=self.password)

    def observe(self, database: str, query: str) -> object:
        """Return the only value of the query, or None."""
        with psycopg.connect(self.dsn(database), autocommit=True) as connection:
            row = connection.execute(query).fetchone()
            return row[0] if row else None

    def await_end_of_sessions(self, database: str, remaining: set[int]) -> None:
        """Wait until only these sessions exist in the database. The others have reported their counters when they end."""
        query = """
            SELECT array_agg(pid) FROM pg_stat_activity
            WHERE datname = %s AND backend_type = 'client backend' AND pid <> ALL (%s)
        """
        until = time.monotonic() + LIMIT_SECONDS
        with self.superuser() as superuser:
            while (row := superuser.execute(query, (database, list(remaining))).fetchone()) != (None,):
                assert time.monotonic() < until, row
                time.sleep(0.01)


@pytest.fixture(scope="module")
def templates(postgres: PostgresServer) -> Iterator[Mapping[Isolation, Template]]:
    with ExitStack() as stack:
        isolations: tuple[Isolation, ...] = ("database", "schema")
        yield {one: stack.enter_context(Template.loaded(postgres, one)) for one in isolations}


@pytest.mark.parametrize(
    ("action", "isolation"), CASES, ids=[f"{action.name}, {isolation}" for action, isolation in CASES]
)
def test_action_leaves_what_it_declares(
    action: HolderAction,
    isolation: Isolation,
    postgres: PostgresServer,
    templates: Mapping[Isolation, Template],
) -> None:
    if postgres.major < action.minimum_version:
        pytest.skip(f"needs PostgreSQL {action.minimum_version}")
    template = templates[isolation]
    query, expected = action.leaves
    with template.clone() as database, ExitStack() as stack:
        assert template.observe(database, query) != expected
        remaining: set[int] = set()
        for work in action.leases:
            holder = stack.enter_context(closing(Holder(template.dsn(database))))
            work(holder)
            remaining |= holder.remaining
            template.await_end_of_sessions(database, remaining)
            with template.superuser(database) as superuser:
                for statement in action.needs:
                    superuser.execute(statement)
            template.await_end_of_sessions(database, remaining)
        assert template.observe(database, query) == expected


def test_names_are_unique() -> None:
    assert [name for name, count in Counter(action.name for action in ACTIONS).items() if count > 1] == []


def test_every_relation_of_the_template_is_used_by_three_actions() -> None:
    relations = re.findall(
        r"(?m)^CREATE (?:UNLOGGED TABLE|TABLE|SEQUENCE|VIEW|MATERIALIZED VIEW) (\w+)", TEMPLATE
    )
    assert len(relations) > 20
    uses = Counter(
        name
        for action in ACTIONS
        for name in set(
            re.findall(r"\w+", inspect.getsource(action.does) if callable(action.does) else str(action.does))
        )
    )
    assert {name: uses[name] for name in relations if uses[name] < 3} == {}
