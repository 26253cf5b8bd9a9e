"""``acquire``, ``renew``, ``reset``, ``release``, ``keep``, ``leases``."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING

from freshdb.cli.connect import connect, describe_holder, project
from freshdb.cli.exits import FAILED, UsageError
from freshdb.cli.hints import hint
from freshdb.cli.output import print_json, print_message, print_result, print_table, report_error, waiting
from freshdb.cli.text import pairs, short, without_password
from freshdb.errors import ServiceError

if TYPE_CHECKING:
    import argparse

    from freshdb.client import Client
    from freshdb.models import Isolation, Lease


def acquire(arguments: argparse.Namespace) -> int:
    """Lease a clean database and print its URL."""
    with connect(arguments) as client:
        template = chosen_template(arguments, client)
        terms = {"idempotency_key": arguments.idempotency_key} if arguments.idempotency_key else {}
        wait_if_building(client, template, arguments.wait)
        with waiting(f"waiting for a database of {short(template)}"):
            lease = client.acquire(
                template,
                isolation=chosen_isolation(arguments),
                ttl_seconds=arguments.ttl,
                wait_seconds=arguments.wait,
                holder=describe_holder("freshdb acquire", {"pid": "", **dict(arguments.holder)}),
                labels=dict(arguments.label),
                **terms,
            )
    if arguments.json:
        print_json(_with_url(lease))
        return 0
    print_result(lease.url)
    print_message(f"lease {lease.id} on {short(lease.template)} ends {lease.ttl_seconds:g} s from now")
    print_message(f"  renew: freshdb renew {lease.id}   release: freshdb release {lease.id}")
    return 0


def renew(arguments: argparse.Namespace) -> int:
    """Renew a lease."""
    with connect(arguments) as client:
        renewal = client.renew(arguments.lease, ttl_seconds=arguments.ttl)
    if arguments.json:
        print_json(renewal)
    else:
        print_result(f"lease {renewal.id} ends {renewal.ttl_seconds:g} s from now")
    return 0


def reset(arguments: argparse.Namespace) -> int:
    """Reset a leased database in place and print its new URL."""
    with connect(arguments) as client:
        lease = client.reset(arguments.lease)
    if arguments.json:
        print_json(_with_url(lease))
        return 0
    print_result(lease.url)
    print_message(f"lease {lease.id} is clean again; its old login no longer works")
    return 0


def release(arguments: argparse.Namespace) -> int:
    """Release or revoke leases. One that fails does not stop the others."""
    released: list[Lease] = []
    failed = False
    with connect(arguments) as client:
        for identifier in arguments.leases:
            try:
                released.append(client.revoke(identifier) if arguments.force else client.release(identifier))
            except ServiceError as error:
                report_error(arguments, str(error), hint(error), code=error.code)
                failed = True
    if arguments.json:
        print_json([without_password(one) for one in released])
    else:
        for one in released:
            print_message(f"{one.state} {one.id}{_leftovers(one)}")
    return FAILED if failed else 0


def keep(arguments: argparse.Namespace) -> int:
    """Keep a leased database for inspection."""
    with connect(arguments) as client:
        lease = client.keep(arguments.lease, ttl_seconds=arguments.ttl, reason=arguments.reason)
    if arguments.json:
        print_json(_with_url(lease) if lease.password else without_password(lease))
    else:
        print_message(
            f"kept {lease.id} for {arguments.ttl:g} s; open it: freshdb psql --lease {shlex.quote(lease.id)}"
        )
    return 0


def leases(arguments: argparse.Namespace) -> int:
    """List leases."""
    with connect(arguments) as client:
        found = client.leases(
            state=arguments.state,
            template=arguments.template,
            isolation=arguments.isolation,
            holder=dict(arguments.holder),
            labels=dict(arguments.label),
            limit=arguments.limit,
        )
    if arguments.json:
        print_json([without_password(one) for one in found])
        return 0
    rows = [
        (
            one.id,
            one.state,
            short(one.template),
            one.schema or one.database,
            pairs(one.holder),
            one.granted_at,
            one.expires_at,
        )
        for one in found
    ]
    headings = ("id", "state", "template", "database", "holder", "granted", "expires")
    print_table(headings, rows, nothing="no leases")
    return 0


def chosen_template(arguments: argparse.Namespace, client: Client) -> str:
    """Return the template of the command line, or the project's, which is built if needed.

    Raises:
        UsageError: neither names one.
    """
    found = project()
    if arguments.template and (found is None or arguments.template != found.template):
        given: str = arguments.template
        return given
    if found is None or found.template is None:
        message = "give a template, on the command line or in pyproject.toml as [tool.freshdb] template"
        raise UsageError(message)
    return found.ensure_template(
        client, progress=print_message, warn=lambda text: print_message(f"warning: {text}")
    )


def chosen_isolation(arguments: argparse.Namespace) -> Isolation:
    """Return the isolation of the command line, or the project's."""
    given: Isolation | None = arguments.isolation
    if given is not None:
        return given
    found = project()
    return (found.isolation if found else None) or "database"


def wait_if_building(client: Client, template: str, wait_seconds: float) -> None:
    """Wait until another builder has built the template."""
    if client.template(template).state == "building":
        print_message(f"waiting for the build of {template}…")
        with waiting(f"building {short(template)}"):
            client.wait_template(template, wait_seconds=wait_seconds)


def _leftovers(lease: Lease) -> str:
    found = {} if lease.leftovers is None else asdict(lease.leftovers)
    objects = ", ".join(found.pop("objects", ()))
    words = [f"{name.replace('_', ' ')}: {number}" for name, number in found.items() if number]
    opened = f" (left open: {', '.join(words)})" if words else ""
    return opened + (f" (left defined: {objects})" if objects else "")


def _with_url(lease: Lease) -> dict[str, object]:
    return {**without_password(lease), "password": lease.password, "url": lease.url}
