"""The modules that the plugin imports in a run that does not use it."""

from __future__ import annotations

from tests.plugin.suites import Suite

WATCH = """
import pathlib, sys

def pytest_unconfigure(config):
    ours = sorted(name for name in sys.modules if name.partition(".")[0] in ("freshdb", "httpx", "tomllib"))
    pathlib.Path("modules").write_text(" ".join(ours))
"""


def test_run_without_a_database_imports_neither_client_nor_httpx(suite: Suite) -> None:
    suite.write("conftest.py", WATCH)
    suite.write("test_it.py", "def test_it():\n    pass\n")
    assert suite.run().counts() == {"passed": 1}
    modules = (suite.directory / "modules").read_text().split()
    assert "freshdb.pytest_plugin" in modules
    assert "httpx" not in modules
    assert "freshdb.client" not in modules
    assert "freshdb.pytest_plugin.run" not in modules


def test_run_with_a_database_imports_neither_the_service_nor_httpxs_command_line(suite: Suite) -> None:
    suite.write("conftest.py", WATCH.replace('"tomllib")', '"freshdb_service", "rich", "click")'))
    suite.write("test_it.py", "def test_it(freshdb):\n    pass\n")
    assert suite.run().counts() == {"passed": 1}
    modules = (suite.directory / "modules").read_text().split()
    assert "freshdb.client" in modules
    assert not {"freshdb_service", "rich", "click"} & set(modules)
