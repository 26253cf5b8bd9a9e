"""The examples in docs/toolkit-*.md, run as a user would run them, in one directory."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.environments import NO_PLUGINS
from tests.toolkit.conftest import Databases

PAGES = [
    Path(__file__).parents[2] / "docs" / f"toolkit-{name}.md" for name in ("sessions", "cleanup", "data")
]
FILE = re.compile(r"^<!-- example: file (\S+) -->\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)

SCOPES = """
import pytest
from sqlalchemy import text


def add(cleanup, name):
    with cleanup.target.begin() as connection:
        connection.execute(text("INSERT INTO author (name) VALUES (:name)"), {"name": name})


def names(cleanup):
    with cleanup.target.begin() as connection:
        return set(connection.scalars(text("SELECT name FROM author")))


@pytest.fixture(scope="module", autouse=True)
def module(clean_database_module):
    add(clean_database_module, "module")


@pytest.fixture(scope="class")
def own(clean_database_class, request):
    add(clean_database_class, request.cls.__name__)


class TestOne:
    @pytest.mark.parametrize("turn", [1, 2])
    def test_it(self, own, clean_database, turn):
        add(clean_database, "test")
        assert names(clean_database) == {"module", "TestOne", "test"}


class TestTwo:
    def test_it(self, own, clean_database):
        assert names(clean_database) == {"module", "TestTwo"}


def test_alone(clean_database):
    assert names(clean_database) == {"module"}
"""


def test_examples_of_the_pages_pass(databases: Databases, tmp_path: Path) -> None:
    files = [found for page in PAGES for found in FILE.findall(page.read_text())]
    for name, text in files:
        (tmp_path / name).write_text(text)
    (tmp_path / "test_a_first.py").write_text(SCOPES)
    dsn = databases.clone(
        "CREATE TABLE author (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text UNIQUE)"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio", tmp_path],
        env={**environment, **NO_PLUGINS, "DATABASE_URL": dsn},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "13 passed" in ended.stdout, "an example was not run"
