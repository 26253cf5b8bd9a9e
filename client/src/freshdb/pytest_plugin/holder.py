"""The holder of a lease, as the list of leases shows it: the test, and the process and machine that run it."""

from __future__ import annotations

import getpass
import os
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_CHARACTERS: Final = 255


def describe_holder(node_id: str, worker: str | None, environment: Mapping[str, str]) -> dict[str, str]:
    """Return node id, xdist worker, host, user, process and, in CI, the URL of the run. Long values are cut."""
    holder = {
        "name": "pytest",
        "test": node_id,
        "worker": worker or "",
        "host": socket.gethostname(),
        "user": _user(),
        "pid": str(os.getpid()),
        "run": run_url(environment) or "",
    }
    return {key: value[:_MAX_CHARACTERS] for key, value in holder.items() if value}


def for_test(node_id: str, holder: Mapping[str, str]) -> dict[str, str]:
    """Return the same holder with another test."""
    return {**holder, "test": node_id[:_MAX_CHARACTERS]}


def run_url(environment: Mapping[str, str]) -> str | None:
    """Return the URL of the CI run (GitHub, GitLab, Jenkins, CircleCI, Buildkite), or ``None`` outside CI."""
    keys = ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_ID")
    server, repository, run = (environment.get(key) for key in keys)
    if server and repository and run:
        return f"{server}/{repository}/actions/runs/{run}"
    others = ("CI_JOB_URL", "BUILD_URL", "CIRCLE_BUILD_URL", "BUILDKITE_BUILD_URL")
    return next((environment[key] for key in others if environment.get(key)), None)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container, a uid may have no name
        return str(os.getuid())
