"""The parts of the reference that the code itself says, as Markdown; made when the site is built, and kept nowhere.

A page asks for a part by ``<!-- reference: NAME -->``; the names are those of ``PARTS`` (``docs/conf.py`` fills them in).
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, TypeVar, cast

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
from freshdb_service.api.app import create_app
from freshdb_service.api.context import Context
from freshdb_service.api.problems import STATUS
from freshdb_service.cluster import Cause
from freshdb_service.config import Settings
from freshdb_service.lifecycle import (
    DATABASE_TRANSITIONS,
    LEASE_TRANSITIONS,
    TEMPLATE_TRANSITIONS,
    DatabaseState,
)
from freshdb_service.metrics import Metrics
from freshdb_service.metrics.facts import PoolFacts, ServerFacts
from tools.drawing import drawing

MARK: Final = re.compile(r"^<!-- reference: (\w+) -->$", re.MULTILINE)
BENCHMARKS: Final = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.json"
FILE: Final = re.compile(r"^<!-- example: file (\S+) -->$", re.MULTILINE)
S = TypeVar("S", bound=StrEnum)


def filled(page: str) -> str:
    """A page with all that it asks for, and with the names of the files that it shows.

    Raises:
        KeyError: there is no such part.
    """
    named = FILE.sub(r"`\1`:\n", page)
    return MARK.sub(lambda mark: PARTS[mark[1]](), named)


def table(headings: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table."""
    lines = [tuple(headings), *rows]
    lines.insert(1, ("---",) * len(tuple(lines[0])))
    return "".join(f"| {' | '.join(_cell(str(cell)) for cell in line)} |\n" for line in lines)


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


# REST


def openapi() -> dict[str, Any]:
    """The document of a service with default settings: its routes, with nobody behind them."""
    settings = Settings.model_construct()
    at = SimpleNamespace(settings=settings, trail=None, metrics=Metrics())
    return create_app(cast("Context", SimpleNamespace(settings=settings, keyring=None, at=at))).openapi()


class _Rest:
    """The OpenAPI document, as Markdown."""

    _BOUNDS: Final = {
        "minimum": "≥",
        "exclusiveMinimum": ">",
        "maximum": "≤",
        "exclusiveMaximum": "<",
        "minLength": "length ≥",
        "maxLength": "length ≤",
        "minItems": "items ≥",
        "maxItems": "items ≤",
    }

    def __init__(self) -> None:
        self._document = openapi()
        self._schemas: dict[str, Any] = self._document["components"]["schemas"]
        self._operations = [its for methods in self._document["paths"].values() for its in methods.values()]
        self._common = set.intersection(*(set(its["responses"]) for its in self._operations))

    def text(self) -> str:
        calls: dict[str, list[str]] = {}
        for path, methods in self._document["paths"].items():
            for method, operation in methods.items():
                [tag] = operation.get("tags", ["health"])
                calls.setdefault(tag, []).append(self._call(f"{method.upper()} {path}", operation))
        parts = [self._document["info"]["description"], self._always()]
        parts += [f"## {tag.capitalize()}\n\n" + "\n".join(its) for tag, its in calls.items()]
        parts.append("## Bodies\n")
        parts += [
            self._body(name, schema)
            for name, schema in sorted(self._schemas.items())
            if "properties" in schema
        ]
        return "\n".join(parts)

    def _always(self) -> str:
        """What any call can end with, said once."""
        said = self._operations[0]["responses"]
        endings = ", ".join(
            f"{status} {self._answer(status, said[status])}" for status in sorted(self._common)
        )
        return f"Any call can end with {endings}.\n"

    def _call(self, title: str, operation: Mapping[str, Any]) -> str:
        parts = [f"### {title}\n", f"{operation.get('description', '')}\n"]
        parameters = [
            (f"`{one['name']}`", one["in"], self._kind(one["schema"]), one.get("description", ""))
            for one in operation.get("parameters", ())
        ]
        if parameters:
            parts.append(table(("parameter", "in", "is", ""), parameters))
        if "requestBody" in operation:
            parts.append(f"Body: {self._content(operation['requestBody'])}\n")
        answers = [
            (status, self._answer(status, said))
            for status, said in operation["responses"].items()
            if status not in self._common
        ]
        parts.append(table(("status", "answer, or codes"), answers))
        return "\n".join(parts)

    def _answer(self, status: str, said: Mapping[str, Any]) -> str:
        return self._content(said) if status < "400" else str(said["description"]).partition(": ")[2]

    def _body(self, name: str, schema: Mapping[str, Any]) -> str:
        needed = schema.get("required", ())
        rows = [
            (
                f"`{field}`",
                self._kind(its),
                "required" if field in needed else _code(its.get("default")),
                its.get("description", ""),
            )
            for field, its in schema["properties"].items()
        ]
        fields = table(("field", "is", "default", ""), rows)
        return f"### {name}\n\n{schema.get('description', '')}\n\n{fields}"

    def _content(self, said: Mapping[str, Any]) -> str:
        kinds = [
            self._kind(of.get("schema", {})) + ("" if media == "application/json" else f" (`{media}`)")
            for media, of in said.get("content", {}).items()
        ]
        return ", ".join(kinds) or str(said.get("description", "nothing"))

    def _kind(self, schema: Mapping[str, Any]) -> str:
        """What a value is, with its bounds, in a few words."""
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            its = self._schemas[name]
            return f"[{name}](#{name.lower()})" if "properties" in its else self._kind(its)
        for key in ("anyOf", "oneOf"):
            if key in schema:
                return " or ".join(dict.fromkeys(self._kind(one) for one in schema[key]))
        if "enum" in schema or "const" in schema:
            return ", ".join(f"`{one}`" for one in schema.get("enum", [schema.get("const")]))
        kind = str(schema.get("format") or schema.get("type") or "anything")
        if kind == "array":
            kind = f"list of {self._kind(schema.get('items', {}))}"
        bounds = [f"{sign} {schema[key]}" for key, sign in self._BOUNDS.items() if key in schema]
        return f"{kind} {', '.join(bounds)}".strip()


# The command line


def cli() -> str:
    """Every command's ``--help``."""
    parts = []
    for command, parser in commands().items():
        parser.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=100)
        parts.append(f"## {command}\n\n```text\n{parser.format_help()}```\n")
    return "\n".join(parts)


def commands() -> dict[str, argparse.ArgumentParser]:
    """Every command with its parser."""
    found = dict(_below(cli_arguments._parser()))  # noqa: SLF001 - nobody else asks for it
    return found | {"freshdb serve": serve._parser()}  # noqa: SLF001 - likewise


def _below(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    yield parser.prog, parser
    for action in parser._actions:  # noqa: SLF001 - argparse does not say otherwise
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - likewise
            for its in action.choices.values():
                yield from _below(its)


# Settings


def settings() -> str:
    """The service's settings, as the model and its docstrings have them."""
    said = ModuleAnalyzer.for_module(Settings.__module__).find_attr_docs()
    rows = []
    for name, field in Settings.model_fields.items():
        what = " ".join(said[Settings.__name__, name]).replace("``", "`")
        rows.append((f"`FRESHDB_{name.upper()}`", _type(field), _given(field), what))
    return table(("variable", "is", "default", "what it is"), rows)


def _given(field: FieldInfo) -> str:
    value = field.default
    if value in (None, ()):
        return ""
    return _code(
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
    """The plugin's fixtures."""
    rows = []
    for name in pytest_plugin._SCOPES:  # noqa: SLF001 - users ask pytest for them, not the module
        fixture = getattr(pytest_plugin, name)
        rows.append((f"`{name}`", fixture._fixture_function_marker.scope, inspect.getdoc(fixture)))  # noqa: SLF001
    return table(("fixture", "scope", "what it is"), rows)


def options() -> str:
    """The plugin's options, and where else each is read."""
    rows = [
        (
            f"`--freshdb-{one.name}={one.metavar}`",
            f"`freshdb_{one.name}`",
            f"`{one.name}`" if one.name in plugin_settings._PROJECT_KEYS else "",  # noqa: SLF001
            f"`FRESHDB_{one.name.upper()}`",
            one.help,
        )
        for one in plugin_settings._OPTIONS  # noqa: SLF001
    ]
    return table(("command line", "pytest's ini", "`[tool.freshdb]`", "environment", "what it is"), rows)


# The client


def client() -> str:
    """Everything that the client's package offers."""
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
    """Every code, with its status, the client's error, and what to do."""
    said = {one.code: one for one in service_errors.FreshdbError.__subclasses__()}
    rows = []
    for code, status in STATUS.items():
        kind = client_errors.BY_CODE.get(code)
        error = kind("", status=int(status)) if kind else None
        what = kind.__doc__ if kind else said[code].__doc__ if code in said else status.phrase
        rows.append(
            (
                f"`{code}`",
                int(status),
                f"`{kind.__name__}`" if kind else "`ServiceError`",
                what,
                (error and hint(error)) or "",
            )
        )
    return table(("code", "status", "the client raises", "what it means", "what to do"), rows)


# Metrics


def metrics() -> str:
    """Every metric of freshdb's own."""
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
    return table(("metric", "kind", "labels", "what it says"), rows)


def every_metric() -> Metrics:
    """Metrics that show one of everything."""
    every = Metrics(Cause)
    pool = PoolFacts("shop@1", "database", {DatabaseState.READY: 1}, 0, 0.0, 1, 1, 1)
    every.show([pool], [ServerFacts("pg", 1, 1, 1, 1)])
    return every


def _labels(every: Metrics) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for collector in every.registry._collector_to_names:  # noqa: SLF001 - the registry does not say otherwise
        if isinstance(collector, MetricWrapperBase):
            found[collector._name] = tuple(collector._labelnames)  # noqa: SLF001 - likewise
            continue
        for family in collector.collect():
            found[family.name] = tuple(family.samples[0].labels) if family.samples else ()
    return found


# Figures


def suite() -> str:
    """What a clean database costs per test, as measured."""
    return _figures("suite", 0)


def turnover() -> str:
    """Leases per second by engine, as measured."""
    return _figures("turnover", 0)


def _figures(section: str, number: int) -> str:
    measured = json.loads(BENCHMARKS.read_text())["sections"][section]["findings"]["tables"][number]
    return table(measured["head"], measured["rows"])


# States


def states() -> str:
    """Where a database, a lease and a template can go from each of their states: drawn, and as a table."""
    return "\n".join(
        (
            _machine("A database", DATABASE_TRANSITIONS),
            _machine("A lease", LEASE_TRANSITIONS),
            _machine("A template", TEMPLATE_TRANSITIONS),
        )
    )


def _machine(title: str, ways: Mapping[S, frozenset[S]]) -> str:
    rows = [
        (f"`{old}`", ", ".join(f"`{new}`" for new in sorted(news)) or "nothing: its end")
        for old, news in ways.items()
    ]
    picture = drawing(title, {str(old): frozenset(map(str, news)) for old, news in ways.items()})
    return f"## {title}\n\n{picture}\n{table(('from', 'to'), rows)}"


def _code(value: object) -> str:
    return "" if value in (None, "", [], {}) else f"`{value}`"


PARTS: Final[Mapping[str, Callable[[], str]]] = {
    "rest": lambda: _Rest().text(),
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
