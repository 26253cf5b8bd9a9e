"""The recipes for CI systems: their commands run against a real service. Also suites in other languages.

Not tested: the CI systems themselves, and the installation of packages, which are all installed here already.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from freshdb import Client
from tests.deploy.documents import DEPLOY
from tests.docs.pages import ROOT, blocks
from tests.environments import NO_PLUGINS
from tests.limits import LIMIT_SECONDS
from tests.services import Service

PROJECT = {
    "schema.sql": "CREATE TABLE item (id integer PRIMARY KEY, name text NOT NULL);",
    "migrate.sh": '#!/bin/sh\nset -e\ntest -n "$DATABASE_URL"\ntouch migrated\n',
    "test_shop.py": """
import psycopg
import pytest

@pytest.mark.parametrize("name", ["apple", "pear", "fig"])
def test_the_table_is_empty(freshdb, name):
    with psycopg.connect(freshdb.url, autocommit=True) as connection:
        assert connection.execute("SELECT count(*) FROM item").fetchone() == (0,)
        connection.execute("INSERT INTO item VALUES (1, %s)", [name])
""",
}
_SH = re.compile(r"^\s*sh '([^']*)'$", re.MULTILINE)
Run = Callable[..., str]


@pytest.fixture
def project(tmp_path: Path, service: Service) -> Iterator[Run]:
    """Create a project with tests and migrations, and return a function that runs its commands."""
    for name, text in PROJECT.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "migrate.sh").chmod(0o755)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("FRESHDB_", "PYTEST_"))},
        "FRESHDB_URL": service.url,
        "FRESHDB_TEMPLATE": "shop",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        **NO_PLUGINS,
    }

    def run(*command: str, **more: str) -> str:
        ended = subprocess.run(
            command,
            cwd=tmp_path,
            env=environment | more,
            capture_output=True,
            text=True,
            check=False,
            timeout=2 * LIMIT_SECONDS,
        )
        assert ended.returncode == 0, f"{command}: {ended.stdout}\n{ended.stderr}"
        return ended.stdout

    yield run
    with Client(service.url) as client:
        held = [one for one in client.leases() if one.holder.get("directory") == str(tmp_path)]
    assert held == []


def of_github() -> list[str]:
    recipe = yaml.safe_load((DEPLOY / "ci" / "github-actions.yml").read_text())
    return [step["run"] for step in recipe["jobs"]["test"]["steps"] if "run" in step]


def of_gitlab() -> list[str]:
    recipe = yaml.safe_load((DEPLOY / "ci" / "gitlab-ci.yml").read_text())
    jobs: list[dict[str, Any]] = [job for job in recipe.values() if "script" in job]
    return [
        line
        for job in jobs
        for part in ("before_script", "script", "after_script")
        for line in job.get(part, ())
    ]


def of_jenkins() -> list[str]:
    return _SH.findall((DEPLOY / "ci" / "Jenkinsfile").read_text())


@pytest.mark.parametrize("recipe", [of_github, of_gitlab, of_jenkins])
def test_commands_of_a_recipe_work(project: Run, tmp_path: Path, recipe: Callable[[], list[str]]) -> None:
    commands = recipe()
    tried = [one for one in commands if "pip install" not in one]
    assert len(tried) == len(commands) - len([one for one in commands if "pip install" in one])
    for command in tried:
        said = project("bash", "-e", "-c", command)
        if command.startswith("pytest"):
            assert "3 passed" in said
    assert (tmp_path / "migrated").exists() == (recipe is of_gitlab)


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ("github-workflows", "deploy/ci/github-actions.yml"),
        ("gitlab-ci", "deploy/ci/gitlab-ci.yml"),
        ("github-workflows", ".github/workflows/ci.yml"),
        ("github-workflows", ".github/workflows/release.yml"),
    ],
)
def test_workflow_is_valid(schema: str, path: str) -> None:
    checker = Path(sys.executable).with_name("check-jsonschema")
    subprocess.run(
        [checker, "--builtin-schema", f"vendor.{schema}", ROOT / path], check=True, capture_output=True
    )


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


SUITES = {block.language: block.text for block in blocks(ROOT / "docs" / "howto" / "languages.md")}
JDBC = Path("/usr/share/java/postgresql.jar")
PQ = Path("/usr/share/gocode/src/github.com/lib/pq")


def twice(project: Run, *command: str, **more: str) -> None:
    """Run a suite twice, each time with a database without rows of the other run."""
    project("freshdb", "template", "sql", "shop", "schema.sql")
    for _ in range(2):
        project("freshdb", "run", "--template", "shop", "--", *command, **more)


@needs("go")
@pytest.mark.skipif(not PQ.exists(), reason="golang-github-lib-pq-dev is not installed")
def test_go_suite_gets_a_clean_database_in_each_run(project: Run, tmp_path: Path) -> None:
    package = tmp_path / "go" / "src" / "shop"
    package.mkdir(parents=True)
    (package / "shop_test.go").write_text(SUITES["go"])
    settings = {"GO111MODULE": "off", "GOPATH": f"{tmp_path / 'go'}:/usr/share/gocode", "GOFLAGS": "-count=1"}
    twice(project, "go", "test", "shop", **settings)


@needs("npm")
def test_node_suite_gets_a_clean_database_in_each_run(project: Run, tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text('{"private": true}')
    try:
        project("npm", "install", "--no-audit", "--no-fund", "pg@8")
    except AssertionError:
        pytest.skip("npm cannot install pg here")
    (tmp_path / "shop.test.js").write_text(SUITES["js"])
    twice(project, "node", "--test")


@needs("javac")
@pytest.mark.skipif(not JDBC.exists(), reason="libpostgresql-jdbc-java is not installed")
def test_java_suite_gets_a_clean_database_in_each_run(project: Run, tmp_path: Path) -> None:
    (tmp_path / "Shop.java").write_text(SUITES["java"])
    project("javac", "Shop.java")
    twice(project, "java", "-cp", f".:{JDBC}", "Shop")
