"""The sources of the settings, and the errors of malformed ones."""

from __future__ import annotations

import re

import pytest

from freshdb import Client
from tests.plugin.suites import Suite

SHOWS_TEMPLATE = "def test_it(freshdb):\n    assert freshdb.template.startswith('{template}@')\n"


@pytest.fixture(autouse=True)
def templates(client: Client) -> None:
    for name in ("by-option", "by-ini", "by-project"):
        client.ensure_sql(name, [f"COMMENT ON SCHEMA public IS '{name}'"])


def test_precedence_is_option_then_ini_then_project_then_environment(suite: Suite) -> None:
    (suite.directory / "pytest.ini").unlink()
    suite.write("test_it.py", SHOWS_TEMPLATE.format(template="shop"))
    assert suite.run().counts() == {"passed": 1}

    suite.write("pyproject.toml", '[tool.pytest.ini_options]\n[tool.freshdb]\ntemplate = "by-project"\n')
    suite.write("test_it.py", SHOWS_TEMPLATE.format(template="by-project"))
    assert suite.run().counts() == {"passed": 1}

    suite.write(
        "pyproject.toml",
        '[tool.pytest.ini_options]\nfreshdb_template = "by-ini"\n[tool.freshdb]\ntemplate = "by-project"\n',
    )
    suite.write("test_it.py", SHOWS_TEMPLATE.format(template="by-ini"))
    assert suite.run().counts() == {"passed": 1}

    suite.write("test_it.py", SHOWS_TEMPLATE.format(template="by-option"))
    assert suite.run("--freshdb-template=by-option").counts() == {"passed": 1}


def test_isolation_has_the_same_precedence(suite: Suite) -> None:
    suite.write("test_it.py", "def test_it(freshdb):\n    assert freshdb.schema is not None\n")
    assert suite.run(FRESHDB_ISOLATION="schema").counts() == {"passed": 1}
    assert suite.run(FRESHDB_ISOLATION="database").counts() == {"failed": 1}
    assert suite.run("--freshdb-isolation=schema", FRESHDB_ISOLATION="database").counts() == {"passed": 1}


def test_url_option_overrides_the_environment(suite: Suite, service_url: str) -> None:
    suite.write("test_it.py", SHOWS_TEMPLATE.format(template="shop"))
    unused_url = "http://127.0.0.1:9"
    assert suite.run(f"--freshdb-url={service_url}", FRESHDB_URL=unused_url).counts() == {"passed": 1}


def test_lease_has_the_ttl_of_the_settings(suite: Suite) -> None:
    suite.write("test_it.py", "def test_it(freshdb):\n    assert freshdb.lease.ttl_seconds == 77\n")
    assert suite.run("--freshdb-ttl=77").counts() == {"passed": 1}
    assert suite.run(FRESHDB_TTL="77").counts() == {"passed": 1}


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("--freshdb-wait=soon", "--freshdb-wait: 'soon' is not a number of seconds"),
        ("--freshdb-ttl=nan", "--freshdb-ttl: 'nan' is not a number of seconds"),
        ("--freshdb-isolation=scheme", "--freshdb-isolation: 'scheme' is not an isolation"),
    ],
)
def test_malformed_setting_is_reported_with_its_source(suite: Suite, option: str, complaint: str) -> None:
    suite.write("test_it.py", SHOWS_TEMPLATE.format(template="shop"))
    finished = suite.run(option)
    assert finished.status == pytest.ExitCode.USAGE_ERROR
    assert complaint in finished.output


def test_unknown_project_key_is_reported(suite: Suite) -> None:
    (suite.directory / "pytest.ini").unlink()
    suite.write("pyproject.toml", '[tool.pytest.ini_options]\n[tool.freshdb]\ntempalte = "shop"\n')
    suite.write("test_it.py", SHOWS_TEMPLATE.format(template="shop"))
    finished = suite.run()
    assert finished.status == pytest.ExitCode.USAGE_ERROR
    assert "tempalte" in finished.output


def test_missing_template_ends_the_run_and_lists_the_ways_to_set_one(suite: Suite) -> None:
    del suite.environment["FRESHDB_TEMPLATE"]
    suite.write("test_it.py", SHOWS_TEMPLATE.format(template="shop"))
    finished = suite.run()
    assert finished.status == pytest.ExitCode.USAGE_ERROR
    assert "[tool.freshdb]" in finished.output
    assert "--freshdb-template" in finished.output


def test_report_header_names_service_and_template(suite: Suite, service_url: str) -> None:
    suite.write("test_it.py", SHOWS_TEMPLATE.format(template="shop"))
    lines = [line for line in suite.run().output.splitlines() if line.startswith("freshdb: ")]
    assert lines == [f"freshdb: {service_url}, template shop"]


def test_unreachable_service_is_one_error(suite: Suite) -> None:
    suite.write("test_it.py", "def test_one(freshdb):\n    pass\n\ndef test_two(freshdb):\n    pass\n")
    finished = suite.run("--freshdb-url=http://127.0.0.1:9", "--freshdb-wait=0")
    assert finished.status == pytest.ExitCode.TESTS_FAILED
    assert finished.output.count("no freshdb service answers at http://127.0.0.1:9") == 1
    assert "Traceback" not in finished.output


def test_wait_option_also_limits_the_attempts_to_reach_the_service(suite: Suite) -> None:
    suite.write("test_it.py", "def test_it(freshdb):\n    pass\n")
    finished = suite.run("--freshdb-url=http://127.0.0.1:9", "--freshdb-wait=0")
    shown = re.search(r"tried for (\d+) s", finished.output)
    assert shown is not None, finished.output
    assert int(shown.group(1)) < 20  # the default of the client is 30 seconds
