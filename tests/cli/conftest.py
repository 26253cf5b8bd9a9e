"""The real command in its own process, against the real service."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from freshdb import Client, Template
from tests.environments import WARNINGS_AS_ERRORS
from tests.limits import LIMIT_SECONDS
from tests.services import Service

SCHEMA = "create table item (id int primary key, name text); insert into item values (1, 'one')"
PRINT_ENVIRONMENT = "import os, json; print(json.dumps(dict(os.environ)))"
COUNT_ITEMS = (
    "import os, psycopg; c = psycopg.connect(os.environ['DATABASE_URL']);"
    " print(c.execute('select count(*) from item').fetchone()[0]); c.close()"
)


@dataclass
class Freshdb:
    """Runs the command."""

    directory: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    program: tuple[str, ...] = ("-m", "freshdb")

    def words(self, *words: str) -> list[str]:
        return [sys.executable, *self.program, *words]

    def full_environment(self) -> dict[str, str]:
        inherited = {
            key: value for key, value in os.environ.items() if not key.startswith(("FRESHDB_", "PG"))
        }
        return {**inherited, **WARNINGS_AS_ERRORS, **self.environment}

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.words(*words),
            cwd=self.directory,
            env=self.full_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
            check=False,
        )

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.words(*words),
            cwd=self.directory,
            env=self.full_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )


@pytest.fixture
def freshdb_command(service: Service, tmp_path: Path) -> Freshdb:
    return Freshdb(tmp_path, {"FRESHDB_URL": service.url})


@pytest.fixture(scope="session")
def client(service: Service) -> Iterator[Client]:
    with Client(service.url, "") as opened:
        yield opened


@pytest.fixture(scope="session")
def shop(client: Client) -> Template:
    return client.ensure_sql(unique("shop"), [SCHEMA])


def unique(name: str) -> str:
    return f"{name}-{secrets.token_hex(4)}"
