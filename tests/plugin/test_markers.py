"""``@pytest.mark.freshdb`` overrides the settings."""

from __future__ import annotations

import pytest

from freshdb import Client
from tests.plugin.suites import Suite


@pytest.fixture(autouse=True)
def library(client: Client) -> None:
    """A second template."""
    client.ensure_sql("library", ["CREATE TABLE book (title text)"])


def test_nearest_marker_wins_for_each_argument(suite: Suite) -> None:
    suite.write(
        "test_marks.py",
        """
        import pytest

        pytestmark = pytest.mark.freshdb(template="library")

        def test_module(freshdb):
            assert freshdb.template.startswith("library@") and freshdb.schema is None

        def test_module_scope(freshdb_module):
            assert freshdb_module.template.startswith("library@")

        def test_session_scope_has_no_marks(freshdb_session):
            assert freshdb_session.template.startswith("shop@")

        @pytest.mark.freshdb(isolation="schema")
        class TestClass:
            def test_class(self, freshdb):
                assert freshdb.template.startswith("library@") and freshdb.schema is not None

            def test_class_scope(self, freshdb_class):
                assert freshdb_class.template.startswith("library@") and freshdb_class.schema is not None

            @pytest.mark.freshdb(template="shop")
            def test_test(self, freshdb):
                assert freshdb.template.startswith("shop@") and freshdb.schema is not None

            @pytest.mark.freshdb(template="shop", isolation="database")
            def test_both(self, freshdb):
                assert freshdb.template.startswith("shop@") and freshdb.schema is None
        """,
    )
    assert suite.run().counts() == {"passed": 7}


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["plain", "xdist"])
@pytest.mark.parametrize(
    ("mark", "complaint"),
    [
        ('tempalte="shop"', 'takes template="…" and isolation="…"'),
        ('"shop"', 'takes template="…" and isolation="…"'),
        ("template=3", 'takes template="…" and isolation="…"'),
        ('isolation="scheme"', "'scheme' is not an isolation"),
    ],
)
def test_invalid_marker_ends_the_run_before_the_tests(
    suite: Suite, workers: tuple[str, ...], mark: str, complaint: str
) -> None:
    suite.write(
        "test_mistake.py",
        f"import pytest\n\n@pytest.mark.freshdb({mark})\ndef test_mistake(freshdb):\n    pass\n",
    )
    finished = suite.run(*workers)
    assert finished.status == pytest.ExitCode.USAGE_ERROR
    assert finished.output.count(complaint) == 1
    assert "test_mistake.py::test_mistake" in finished.output
    assert "Traceback" not in finished.output


def test_missing_template_fails_only_its_test_without_traceback(suite: Suite) -> None:
    suite.write(
        "test_absent.py",
        """
        import pytest

        @pytest.mark.freshdb(template="absent")
        def test_absent(freshdb):
            pass

        def test_present(freshdb):
            pass
        """,
    )
    finished = suite.run()
    assert finished.counts() == {"passed": 1, "error": 1}
    assert "'absent'" in finished.output or '"absent"' in finished.output
    assert "Traceback" not in finished.output
