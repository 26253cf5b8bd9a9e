"""Who holds a lease: what a colleague who looks at the list of leases wants to know."""

from __future__ import annotations

import getpass
import os
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_CHARACTERS: Final = 255


def describe_holder(node_id: str, worker: str | None, environment: Mapping[str, str]) -> dict[str, str]:
    """Node id, xdist worker, host, user, process and, under CI, the run's address; long values are cut."""
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


def in_name_of(node_id: str, holder: Mapping[str, str]) -> dict[str, str]:
    """The same holder, for another test."""
    return {**holder, "test": node_id[:_MAX_CHARACTERS]}


def run_url(environment: Mapping[str, str]) -> str | None:
    """Address of the CI run (GitHub, GitLab, Jenkins, CircleCI, Buildkite), if this is one."""
    keys = ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_ID")
    server, repository, run = (environment.get(key) for key in keys)
    if server and repository and run:
        return f"{server}/{repository}/actions/runs/{run}"
    others = ("CI_JOB_URL", "BUILD_URL", "CIRCLE_BUILD_URL", "BUILDKITE_BUILD_URL")
    return next((environment[key] for key in others if environment.get(key)), None)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's uid without a name
        return str(os.getuid())
