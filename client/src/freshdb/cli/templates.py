"""``templates``, ``template build``, ``template sql``, ``template log``, ``template retire``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from freshdb import fingerprints
from freshdb.build_command import run_build_command
from freshdb.build_errors import describe_place
from freshdb.cli.connect import connect
from freshdb.cli.exits import FAILED, UsageError
from freshdb.cli.hints import hint
from freshdb.cli.output import print_json, print_message, print_result, print_table, report_error, waiting
from freshdb.cli.text import short, size
from freshdb.errors import TemplateFailed

if TYPE_CHECKING:
    import argparse

    from freshdb.models import BuildGrant, Template


def templates(arguments: argparse.Namespace) -> int:
    """List templates."""
    with connect(arguments) as client:
        found = client.templates(name=arguments.name, state=arguments.state)
    if arguments.json:
        print_json(found)
        return 0
    rows = [
        (
            short(one.reference),
            one.state,
            size(one.size_bytes),
            ", ".join(map(str, one.extensions)),
            one.created_at,
            one.error.message if one.error else "; ".join(one.warnings) or None,
            one.id,
        )
        for one in found
    ]
    headings = ("template", "state", "size", "extensions", "created", "problem", "id")
    print_table(
        headings,
        rows,
        nothing="no templates: create one with freshdb template build, or freshdb template sql",
    )
    return 0


def build(arguments: argparse.Namespace) -> int:
    """Build a template by a command, unless it exists."""
    root, command = Path.cwd(), list(arguments.command)
    if not command:
        message = "give the command that fills the database after --, for example: -- alembic upgrade head"
        raise UsageError(message)
    fingerprint = arguments.fingerprint or _fingerprint(arguments, root, command)

    def builder(grant: BuildGrant) -> str:
        print_message(f"building {arguments.name}: {' '.join(command)}")
        return run_build_command(command, grant, directory=root, output=sys.stderr)

    with connect(arguments) as client:
        template = client.build(
            arguments.name,
            fingerprint,
            builder,
            extensions=arguments.extensions,
            wait_seconds=arguments.wait,
        )
    return _show(arguments, template)


def sql(arguments: argparse.Namespace) -> int:
    """Build a template from SQL files, unless it exists."""
    try:
        scripts = [path.read_text(encoding="utf-8") for path in arguments.files]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(str(error)) from None
    with connect(arguments) as client:
        try:
            with waiting(f"building {arguments.name}"):
                template = client.ensure_sql(
                    arguments.name,
                    scripts,
                    fingerprint=arguments.fingerprint,
                    extensions=arguments.extensions,
                    wait_seconds=arguments.wait,
                )
        except TemplateFailed as error:
            place = describe_place(error.extra, arguments.files)
            report_error(arguments, str(error), place or hint(error), code=error.code)
            return FAILED
    return _show(arguments, template)


def log(arguments: argparse.Namespace) -> int:
    """Print the log of a template's last build."""
    with connect(arguments) as client:
        template = client.template(arguments.template)
        found = client.build_log(template.id)
    if arguments.json:
        print_json(found)
        return 0
    warn(template)
    if found.error is not None:
        print_message(f"error: {found.error.message}")
    if found.log:
        sys.stdout.write(found.log if found.log.endswith("\n") else f"{found.log}\n")
    elif template.state == "building":
        print_message(
            f"{template.reference} is still being built: its log can be read when the build has ended"
        )
    else:
        print_message(
            f"the build of {template.reference} has no log: its builder sent none, or printed nothing"
        )
    return 0


def warn(template: Template) -> None:
    """Print the warnings of a template's build."""
    for line in template.warning_lines:
        print_message(f"warning: {line}")


def retire(arguments: argparse.Namespace) -> int:
    """Retire a template."""
    with connect(arguments) as client:
        template = client.retire(arguments.template, force=arguments.force)
    if arguments.json:
        print_json(template)
    else:
        print_message(f"retired {template.reference}")
    return 0


def _fingerprint(arguments: argparse.Namespace, root: Path, command: list[str]) -> str:
    if not arguments.inputs:
        message = "name the files that the command reads: --inputs 'migrations/**', or give a --fingerprint"
        raise UsageError(message)
    files: list[Path] = []
    for pattern in arguments.inputs:
        found = fingerprints.matching_files(root, pattern)
        if not found:
            message = f"--inputs: {pattern!r} matches no file below {root}"
            raise UsageError(message)
        files += found
    return fingerprints.of_inputs(root, files, command=command, extensions=arguments.extensions)


def _show(arguments: argparse.Namespace, template: Template) -> int:
    if arguments.json:
        print_json(template)
    else:
        print_result(template.reference)
        warn(template)
        print_message(
            f"ready: {size(template.size_bytes)}; use it: freshdb run --template {template.name} -- COMMAND"
        )
    return 0
