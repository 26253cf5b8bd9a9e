"""Parts of the reference that are generated from the code as Markdown when the site is built.

A page includes a part by ``<!-- reference: NAME -->``, with a name of ``PARTS``. ``docs/conf.py`` replaces these comments.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeVar

import pytest
from prometheus_client.metrics import MetricWrapperBase
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from sphinx.pycode import ModuleAnalyzer

import freshdb
from freshdb import errors as client_errors
from freshdb import pytest_plugin
from freshdb.cli import arguments as cli_arguments
from freshdb.cli.hints import hint
from freshdb.pytest_plugin import settings as plugin_settings
from freshdb_service import errors as service_errors
from freshdb_service import serve
from freshdb_service.api.problems import STATUS
from freshdb_service.config import Settings
from freshdb_service.lifecycle import (
    DATABASE_ENTRY,
    DATABASE_EXIT,
    DATABASE_TRANSITIONS,
    LEASE_ENTRY,
    LEASE_EXIT,
    LEASE_TRANSITIONS,
    TEMPLATE_ENTRY,
    TEMPLATE_EXIT,
    TEMPLATE_TRANSITIONS,
    DatabaseState,
)
from freshdb_service.observability.metrics import Metrics
from freshdb_service.observability.metrics.gauges import PoolGauges, ServerGauges
from freshdb_service.postgres import Cause
from tools.drawing import drawing
from tools.markdown import code, table
from tools.rest import Rest

MARK: Final = re.compile(r"^<!-- reference: (\w+) -->$", re.MULTILINE)
BENCHMARKS: Final = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.json"
FILE: Final = re.compile(r"^<!-- example: file (\S+) -->$", re.MULTILINE)
S = TypeVar("S", bound=StrEnum)


def filled(page: str) -> str:
    """Return a page with its generated parts, and with the names of the files in its examples.

    Raises:
        KeyError: no part has this name.
    """
    named = FILE.sub(r"`\1`:\n", page)
    return MARK.sub(lambda mark: PARTS[mark[1]](), named)


# The command line


def cli() -> str:
    """Return the ``--help`` of all commands."""
    parts = []
    for command, parser in commands().items():
        parser.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=100)
        parts.append(f"## {command}\n\n```text\n{parser.format_help()}```\n")
    return "\n".join(parts)


def commands() -> dict[str, argparse.ArgumentParser]:
    """Return all commands with their parsers."""
    found = dict(_below(cli_arguments._parser()))  # noqa: SLF001 - there is no public function
    return found | {"freshdb serve": serve._parser()}  # noqa: SLF001 - as above


def _below(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    yield parser.prog, parser
    for action in parser._actions:  # noqa: SLF001 - argparse has no public attribute
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - as above
            for its in action.choices.values():
                yield from _below(its)


# Settings


def settings() -> str:
    """Return the service's settings, from the model and its docstrings."""
    said = ModuleAnalyzer.for_module(Settings.__module__).find_attr_docs()
    rows = []
    for name, field in Settings.model_fields.items():
        what = " ".join(said[Settings.__name__, name])
        rows.append((f"`FRESHDB_{name.upper()}`", _type(field), _given(field), what))
    return table(("variable", "type", "default", "description"), rows)


def _given(field: FieldInfo) -> str:
    value = field.default
    if value in (None, ()):
        return ""
    return code(
        " ".join(value) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else value
    )


def _type(field: FieldInfo) -> str:
    annotation = field.annotation
    if typing.get_origin(annotation) is typing.Literal:
        return ", ".join(f"`{one}`" for one in typing.get_args(annotation))
    kinds = [annotation, *typing.get_args(annotation)]
    names = {
        tuple: "words",
        int: "integer",
        float: "number",
        bool: "yes or no",
        SecretStr: "secret",
        Path: "path",
    }
    kind = next((names[one] for one in kinds if one in names), "text")
    if typing.get_origin(annotation) is tuple:
        kind = "words"
    bounds = []
    for limit in field.metadata:
        bounds += [
            f"{sign} {getattr(limit, key)}"
            for key, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"))
            if hasattr(limit, key)
        ]
    return f"{kind} {', '.join(bounds)}".strip()


# The pytest plugin


def fixtures() -> str:
    """Return the plugin's fixtures."""
    rows = []
    for name in pytest_plugin._SCOPES:  # noqa: SLF001 - users get them from pytest, not from the module
        fixture = getattr(pytest_plugin, name)
        rows.append((f"`{name}`", fixture._fixture_function_marker.scope, inspect.getdoc(fixture)))  # noqa: SLF001
    return table(("fixture", "scope", "description"), rows)


def options() -> str:
    """Return the plugin's options, with their other sources."""
    parser = pytest.Parser(_ispytest=True)
    plugin_settings.add_options(parser)
    rows = []
    for option in parser.getgroup("freshdb").options:
        name, said = option.dest.removeprefix("freshdb_"), option.attrs()
        value = f"={said['metavar']}" if said.get("metavar") else ""
        in_project = f"`{name}`" if name in plugin_settings._PROJECT_KEYS else ""  # noqa: SLF001 - as above
        rows.append(
            (
                f"`{option.names()[0]}{value}`",
                f"`freshdb_{name}`",
                in_project,
                f"`FRESHDB_{name.upper()}`",
                said["help"],
            )
        )
    return table(("command line", "pytest's ini", "`[tool.freshdb]`", "environment", "description"), rows)


# The client


def client() -> str:
    """Return directives for all public names of the client."""
    names = [name for name in freshdb.__all__ if not name.startswith("__")]
    names.sort(key=lambda name: (_is_error(name), name != "Client", name != "AsyncClient"))
    parts = []
    for name in names:
        directive = f"autofunction:: freshdb.{name}"
        if inspect.isclass(getattr(freshdb, name)):
            directive = (
                f"autoclass:: freshdb.{name}\n   :members:\n   :inherited-members: Exception, BaseException"
            )
        parts.append(f"## {name}\n\n```{{eval-rst}}\n.. {directive}\n```\n")
    return "\n".join(parts)


def _is_error(name: str) -> bool:
    found = getattr(freshdb, name)
    return inspect.isclass(found) and issubclass(found, Exception)


# Errors


def errors() -> str:
    """Return all codes with their status, the client's exception, the meaning and the remedy."""
    said = {one.code: one.__doc__ for one in service_errors.FreshdbError.__subclasses__()}
    rows = []
    for word, status in STATUS.items():
        kind = client_errors.BY_CODE.get(word, client_errors.ServiceError)
        known = kind is not client_errors.ServiceError
        what = kind.__doc__ if known else said.get(word, status.phrase)
        do = hint(kind("", status=int(status))) or ""
        rows.append((f"`{word}`", int(status), f"`{kind.__name__}`", what, do))
    return table(("code", "status", "client exception", "meaning", "remedy"), rows)


# Metrics


def metrics() -> str:
    """Return all metrics of freshdb."""
    every = every_metric()
    labels = _labels(every)
    suffix = {"counter": "_total", "info": "_info"}
    rows = [
        (
            f"`{family.name}{suffix.get(family.type, '')}`",
            family.type,
            ", ".join(f"`{name}`" for name in labels[family.name]),
            family.documentation,
        )
        for family in sorted(every.registry.collect(), key=lambda one: one.name)
        if family.name.startswith("freshdb_")
    ]
    return table(("metric", "type", "labels", "description"), rows)


def every_metric() -> Metrics:
    """Create metrics with at least one series of each gauge."""
    every = Metrics(Cause)
    pool = PoolGauges("shop@1", "database", {DatabaseState.READY: 1}, 0, 0.0, 1, 1, 1)
    every.show([pool], [ServerGauges("pg", 1, 1, 1, 1)])
    return every


def _labels(every: Metrics) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for collector in every.registry._collector_to_names:  # noqa: SLF001 - the registry has no public method
        if isinstance(collector, MetricWrapperBase):
            found[collector._name] = tuple(collector._labelnames)  # noqa: SLF001 - as above
            continue
        for family in collector.collect():
            found[family.name] = tuple(family.samples[0].labels) if family.samples else ()
    return found


# Figures


def suite() -> str:
    """Return the measured cost of a clean database per test."""
    return _figures("suite", 0)


def turnover() -> str:
    """Return the measured leases per second by engine."""
    return _figures("turnover", 0)


def _figures(section: str, number: int) -> str:
    measured = json.loads(BENCHMARKS.read_text())["sections"][section]["findings"]["tables"][number]
    return table(measured["head"], measured["rows"])


# States


def states() -> str:
    """Return the legal transitions of databases, leases and templates, as drawings and tables."""
    return "\n".join(
        (
            _machine("A database", DATABASE_ENTRY, DATABASE_TRANSITIONS, DATABASE_EXIT),
            _machine("A lease", LEASE_ENTRY, LEASE_TRANSITIONS, LEASE_EXIT),
            _machine("A template", TEMPLATE_ENTRY, TEMPLATE_TRANSITIONS, TEMPLATE_EXIT),
        )
    )


def _machine(
    title: str, entry: frozenset[S], transitions: Mapping[S, frozenset[S]], exits: frozenset[S]
) -> str:
    rows = [("inserted", ", ".join(f"`{new}`" for new in sorted(entry)))]
    for old, news in transitions.items():
        targets = [f"`{new}`" for new in sorted(news)] + ["deleted"] * (old in exits)
        rows.append((f"`{old}`", ", ".join(targets)))
    picture = drawing(title, {str(old): frozenset(map(str, news)) for old, news in transitions.items()})
    return f"## {title}\n\n{picture}\n{table(('from', 'to'), rows)}"


PARTS: Final[Mapping[str, Callable[[], str]]] = {
    "rest": lambda: Rest().text(),
    "cli": cli,
    "client": client,
    "settings": settings,
    "fixtures": fixtures,
    "options": options,
    "errors": errors,
    "metrics": metrics,
    "states": states,
    "suite": suite,
    "turnover": turnover,
}
