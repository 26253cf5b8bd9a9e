"""The holder of a lease, as the list of leases shows it."""

from __future__ import annotations

import os

import pytest

from freshdb.pytest_plugin.holder import describe_holder, run_url


@pytest.mark.parametrize(
    ("environment", "address"),
    [
        ({}, None),
        ({"GITHUB_SERVER_URL": "https://github.com", "GITHUB_RUN_ID": "7"}, None),
        (
            {"GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "a/b", "GITHUB_RUN_ID": "7"},
            "https://github.com/a/b/actions/runs/7",
        ),
        ({"CI_JOB_URL": "https://gitlab.example/a/b/-/jobs/7"}, "https://gitlab.example/a/b/-/jobs/7"),
        ({"BUILD_URL": "https://jenkins.example/job/a/7/"}, "https://jenkins.example/job/a/7/"),
    ],
)
def test_run_url_is_read_from_the_ci_environment(environment: dict[str, str], address: str | None) -> None:
    assert run_url(environment) == address


def test_holder_has_no_empty_or_too_long_values() -> None:
    holder = describe_holder("test_it.py::test_it[" + "x" * 1000 + "]", None, {})
    assert holder["pid"] == str(os.getpid())
    assert "worker" not in holder
    assert "run" not in holder
    assert all(0 < len(value) <= 255 for value in holder.values())
