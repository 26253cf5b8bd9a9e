"""The service that a command talks to, and the holder that it gives."""

from __future__ import annotations

import getpass
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

from freshdb.cli.exits import UsageError
from freshdb.cli.output import print_message
from freshdb.client import Client
from freshdb.embedded import ensure_service
from freshdb.errors import ProjectInvalid
from freshdb.project import Project, load_project

if TYPE_CHECKING:
    import argparse

_CI_RUN: Final = ("CI_JOB_URL", "BUILD_URL", "CIRCLE_BUILD_URL", "BUILDKITE_BUILD_URL")


def project() -> Project | None:
    """Read the project of the working directory.

    Raises:
        UsageError: its ``[tool.freshdb]`` is wrong.
    """
    try:
        return load_project(Path.cwd())
    except ProjectInvalid as error:
        raise UsageError(str(error)) from None


def configured_url(arguments: argparse.Namespace) -> str | None:
    """Find the service's address: from the command line, the project or the environment, in this order."""
    if arguments.url:
        given: str = arguments.url
        return given
    if arguments.data:
        return None
    found = project()
    return (found.url if found else None) or os.environ.get("FRESHDB_URL") or None


def connect(arguments: argparse.Namespace) -> Client:
    """Open a client. With no service configured, find or start an embedded one."""
    url = configured_url(arguments)
    return Client(url or ensure_service(arguments.data, progress=print_message))


def describe_holder(name: str, given: dict[str, str]) -> dict[str, str]:
    """Describe the holder of a lease. The values in `given` replace the known ones."""
    known = {
        "name": name,
        "host": socket.gethostname(),
        "user": _user(),
        "pid": str(os.getpid()),
        "run": _run_url(),
    }
    return {key: value[:255] for key, value in {**known, **given}.items() if value}


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container, a uid may have no name
        return str(os.getuid())


def _run_url() -> str:
    github = [os.environ.get(key, "") for key in ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_ID")]
    if all(github):
        return "{}/{}/actions/runs/{}".format(*github)
    return next((os.environ[key] for key in _CI_RUN if os.environ.get(key)), "")
