"""Real databases for the toolkit: one per schema and test process, and clones of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

import psycopg
import pytest
from sqlalchemy import make_url

from tests.servers import PostgresServer

_NUMBERS = count()


@dataclass
class Databases:
    """Makes databases on one server, and drops them."""

    server: str
    templates: dict[str, str] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)

    def clone(self, sql: str) -> str:
        """A DSN of a new database that holds what this SQL makes."""
        if sql not in self.templates:
            name = self.templates[sql] = self._create("template0")
            with psycopg.connect(self._dsn(name), autocommit=True) as connection:
                connection.execute(sql.encode())
        return self._dsn(self._create(self.templates[sql]))

    def _create(self, template: str) -> str:
        self.made.append(f"toolkit_{os.getpid()}_{next(_NUMBERS)}")
        self._say(f"CREATE DATABASE {self.made[-1]} TEMPLATE {template}")
        return self.made[-1]

    def drop(self) -> None:
        while self.made:
            self._say(f"DROP DATABASE {self.made.pop()} WITH (FORCE)")

    def _say(self, statement: str) -> None:
        with psycopg.connect(self.server, autocommit=True) as connection:
            connection.execute(statement.encode())

    def _dsn(self, database: str) -> str:
        return make_url(self.server).set(database=database).render_as_string(hide_password=False)


@pytest.fixture(scope="module")
def databases(postgres_18: PostgresServer) -> Iterator[Databases]:
    made = Databases(postgres_18.dsn)
    yield made
    made.drop()
