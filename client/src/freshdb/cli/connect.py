"""Which service a command talks to, and who it says it is."""

from __future__ import annotations

import getpass
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

from freshdb.cli.output import say
from freshdb.cli.usage import UsageError
from freshdb.client import Client
from freshdb.embedded import ensure_service
from freshdb.errors import ProjectInvalid
from freshdb.project import Project, load_project

if TYPE_CHECKING:
    import argparse

_CI_RUN: Final = ("CI_JOB_URL", "BUILD_URL", "CIRCLE_BUILD_URL", "BUILDKITE_BUILD_URL")


def project() -> Project | None:
    """Read the project that the working directory belongs to.

    Raises:
        UsageError: its ``[tool.freshdb]`` is wrong.
    """
    try:
        return load_project(Path.cwd())
    except ProjectInvalid as error:
        raise UsageError(str(error)) from None


def configured_url(arguments: argparse.Namespace) -> str | None:
    """Find the service's address: the command line, the project, the environment, in this order."""
    if arguments.url:
        given: str = arguments.url
        return given
    if arguments.data:
        return None
    found = project()
    return (found.url if found else None) or os.environ.get("FRESHDB_URL") or None


def connect(arguments: argparse.Namespace) -> Client:
    """Open a client; with no service configured, an embedded one is found or started."""
    url = configured_url(arguments)
    return Client(url or ensure_service(arguments.data, progress=say))


def describe_holder(what: str, given: dict[str, str]) -> dict[str, str]:
    """Say who holds a lease: what was given, then what is known here."""
    known = {
        "name": what,
        "host": socket.gethostname(),
        "user": _user(),
        "pid": str(os.getpid()),
        "run": _run_url(),
    }
    return {key: value[:255] for key, value in {**known, **given}.items() if value}


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's uid without a name
        return str(os.getuid())


def _run_url() -> str:
    github = [os.environ.get(key, "") for key in ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_ID")]
    if all(github):
        return "{}/{}/actions/runs/{}".format(*github)
    return next((os.environ[key] for key in _CI_RUN if os.environ.get(key)), "")
