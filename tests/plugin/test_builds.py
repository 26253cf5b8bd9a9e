"""The build of the project's template, as a person sees it in pytest: its errors and its warnings."""

from __future__ import annotations

import pytest

from freshdb_service.embedded.binaries import newest_postgres_binaries
from tests.plugin.suites import Suite

TEST = """
def test_it(freshdb):
    pass
"""


@pytest.mark.parametrize("workers", ["0", "2"], ids=["plain", "xdist"])
def test_failed_sql_shows_file_line_statement_and_hint(suite: Suite, workers: str) -> None:
    suite.write("schema.sql", "CREATE TABLE person (name text);")
    suite.write("seed.sql", "-- people\nINSERT INTO person\nSELECT nam FROM person;\n")
    suite.write("pyproject.toml", '[tool.freshdb]\ntemplate = "people"\nsql = ["schema.sql", "seed.sql"]\n')
    suite.write("test_it.py", TEST)
    run = suite.run("-n", workers, FRESHDB_TEMPLATE="people")
    assert run.status == 1
    assert 'column "nam" does not exist' in run.output
    assert "seed.sql, line 3: INSERT INTO person SELECT nam FROM person" in run.output
    assert "Perhaps you meant to reference the column" in run.output  # PostgreSQL's hint
    assert run.output.count("seed.sql, line 3") == 1


@pytest.mark.parametrize("workers", ["0", "2"], ids=["plain", "xdist"])
def test_doubtful_build_is_warned_about_in_every_run(suite: Suite, workers: str) -> None:
    name = f"doubtful-{workers}"
    suite.write("schema.sql", "CREATE TABEL person (name text);")
    suite.write(
        "pyproject.toml",
        f"""
        [tool.freshdb]
        template = "{name}"
        inputs = ["schema.sql"]
        build = '{newest_postgres_binaries() / "psql"} -f schema.sql'
        """,
    )
    suite.write("test_it.py", TEST)
    for _ in ("built", "found"):
        run = suite.run("-n", workers, FRESHDB_TEMPLATE=name)
        assert run.counts() == {"passed": 1}
        _, _, section = run.output.partition("freshdb: warnings about templates")
        assert f"template {name}: the build command printed an error" in section
        assert 'schema.sql:1: ERROR:  syntax error at or near "TABEL"' in section
        assert f"template {name}: the build created no table" in section
        assert f"see: freshdb template log {name}" in section
