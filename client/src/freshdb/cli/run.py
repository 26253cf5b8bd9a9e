"""``run`` and ``psql``: a command with its own clean database."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NoReturn

from freshdb.cli.connect import connect, describe_holder
from freshdb.cli.exits import BY_SIGNAL, UsageError
from freshdb.cli.leases import chosen_isolation, chosen_template, wait_if_building
from freshdb.cli.output import print_message, waiting
from freshdb.cli.supervise import supervise
from freshdb.cli.text import short
from freshdb.environment import environment_with

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from types import FrameType

    from freshdb.held_lease import HeldLease
    from freshdb.models import Lease


def run(arguments: argparse.Namespace) -> int:
    """Run a command while holding a lease, and return its exit code."""
    if not arguments.command:
        message = "give a command after --, as in: freshdb run -- pytest"
        raise UsageError(message)
    with _held(arguments, f"freshdb run {os.path.basename(arguments.command[0])}") as held:  # noqa: PTH119 - a word, not a path
        return supervise(arguments.command, _environment(held), held)


def psql(arguments: argparse.Namespace) -> int:
    """Open psql on a clean database, or on the database of a lease."""
    command = [_psql_program(), *arguments.command]
    if arguments.lease is None:
        with _held(arguments, "freshdb psql") as held:
            return supervise(command, _environment(held), held)
    if arguments.template is not None:
        message = "give a template or a --lease, not both"
        raise UsageError(message)
    with connect(arguments) as client:
        lease = client.get_lease(arguments.lease)
    return supervise(command, _environment(lease), None)


@contextmanager
def _held(arguments: argparse.Namespace, name: str) -> Iterator[HeldLease]:
    _exit_on_signals()
    with connect(arguments) as client:
        template = chosen_template(arguments, client)
        wait_if_building(client, template, arguments.wait)
        lease = client.lease(
            template,
            isolation=chosen_isolation(arguments),
            ttl_seconds=arguments.ttl,
            wait_seconds=arguments.wait,
            holder=describe_holder(name, dict(arguments.holder)),
            labels=dict(arguments.label),
        )
        with ExitStack() as stack:
            with waiting(f"waiting for a database of {short(template)}"):
                held = stack.enter_context(lease)
            yield held


def _environment(lease: HeldLease | Lease) -> dict[str, str]:
    """Build the command's environment. It allows this login in pytest's guard, which does not know this process's lease."""
    allowed = f"{os.environ.get('FRESHDB_GUARD_ALLOW', '')} postgresql://{lease.user}@*/{lease.database}"
    added = {"FRESHDB_LEASE_ID": lease.id, "FRESHDB_GUARD_ALLOW": allowed.strip()}
    return {**environment_with(lease, os.environ), **added}


def _exit_on_signals() -> None:
    """Turn signals before and after the command into ``SystemExit``, so that the lease is released."""

    def leave(number: int, _: FrameType | None) -> NoReturn:
        sys.exit(BY_SIGNAL + number)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) is not signal.SIG_IGN:  # ignored, as under nohup
            signal.signal(number, leave)


def _psql_program() -> str:
    found = shutil.which("psql")
    if found is not None:
        return found
    try:
        from freshdb_service.embedded import postgres_binaries  # noqa: PLC0415 - another package, may be missing
    except ModuleNotFoundError:
        binaries = None
    else:
        binaries = postgres_binaries(18)
    if binaries is not None and (binaries / "psql").exists():
        return str(binaries / "psql")
    print_message("psql is not on PATH: install PostgreSQL's client package (postgresql-client)")
    return "psql"
