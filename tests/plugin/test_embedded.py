"""Without a service URL, the plugin starts the embedded service, which keeps running."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from freshdb.embedded import running_service, stop_service
from tests.plugin.suites import Suite


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    data = tmp_path / "freshdb-data"
    yield data
    stop_service(data)


@pytest.mark.parametrize("workers", ["0", "2"], ids=["plain", "xdist"])
def test_first_run_starts_one_service_and_second_run_uses_it(
    tmp_path: Path, data: Path, workers: str
) -> None:
    suite = Suite(tmp_path, {"FRESHDB_DATA": str(data)})
    suite.write("schema.sql", "CREATE TABLE item (name text);")
    suite.write(
        "pyproject.toml",
        """
        [tool.pytest.ini_options]
        filterwarnings = "error"

        [tool.freshdb]
        template = "shop"
        sql = ["schema.sql"]
        """,
    )
    suite.write(
        "test_it.py",
        """
        import psycopg, pytest

        @pytest.mark.parametrize("number", range(4))
        def test_it(freshdb, number):
            with psycopg.connect(freshdb.url) as connection:
                assert connection.execute("SELECT count(*) FROM item").fetchone() == (0,)
        """,
    )
    first = suite.run("-n", workers)
    assert first.counts() == {"passed": 4}
    assert "freshdb: not started yet, template shop" in first.output
    service = running_service(data)
    assert service is not None
    second = suite.run("-n", workers)
    assert second.counts() == {"passed": 4}
    assert f"freshdb: {service.url}, template shop" in second.output
    assert running_service(data) == service
