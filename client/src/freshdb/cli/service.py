"""``stop``, ``status``, ``pools``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from freshdb.cli.connect import configured_url, connect
from freshdb.cli.exits import FAILED
from freshdb.cli.output import print_json, print_message, print_result, print_table
from freshdb.cli.text import pairs, short
from freshdb.cli.watch import watch
from freshdb.client import Client
from freshdb.embedded import default_data_directory, running_service, stop_service

if TYPE_CHECKING:
    import argparse


def stop(arguments: argparse.Namespace) -> int:
    """Stop the embedded service."""
    directory = arguments.data or default_data_directory()
    stopped = stop_service(directory)
    if arguments.json:
        print_json({"stopped": stopped})
    else:
        print_message(
            f"stopped the service in {directory}" if stopped else f"no service is running in {directory}"
        )
    return 0


def status(arguments: argparse.Namespace) -> int:
    """Show the service's address and health. Never start a service."""
    url = configured_url(arguments)
    if url is None:
        directory = arguments.data or default_data_directory()
        running = running_service(directory)
        if running is None:
            if arguments.json:
                print_json({"status": "not running", "data": str(directory)})
            print_message(
                f"no service is configured, and none is running in {directory}; `freshdb run` and pytest start one"
            )
            return FAILED
        url = running.url
    if arguments.watch is not None:
        return watch(url, arguments.watch, json_lines=arguments.json)
    with Client(url) as client:
        health = client.health()
        found = {
            "url": client.url,
            "status": health.status,
            "version": health.version,
            "checks": health.checks,
            "templates": len(client.templates(state="ready")) if health.ok else None,
            "leases": len(client.leases()) if health.ok else None,
        }
    if arguments.json:
        print_json(found)
    else:
        checks = found.pop("checks")
        for key, value in found.items():
            print_result(f"{key:<10} {'-' if value is None else value}")
        for key, value in checks.items() if isinstance(checks, dict) else ():
            print_result(f"  {key}: {value}")
    return 0 if health.ok else FAILED


def pools(arguments: argparse.Namespace) -> int:
    """List pools."""
    with connect(arguments) as client:
        found = client.pools()
    if arguments.json:
        print_json(found)
        return 0
    rows = [
        (
            short(one.template),
            one.isolation,
            pairs(one.databases),
            one.waiting,
            f"{one.min_ready}…{one.max_size}",
            "; ".join(one.refusal) or one.last_error,
            one.id,
        )
        for one in found
    ]
    headings = ("template", "isolation", "databases", "waiting", "size", "problem", "id")
    print_table(headings, rows, nothing="no pools: no template was leased yet")
    return 0
