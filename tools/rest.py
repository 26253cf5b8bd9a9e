"""The REST interface as Markdown: every call of the OpenAPI document, and the bodies."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Final, cast

from freshdb_service.api.app import create_app
from freshdb_service.api.context import Context
from freshdb_service.config import Settings
from freshdb_service.observability.metrics import Metrics
from tools.markdown import code, table


def openapi() -> dict[str, Any]:
    """Return the document of a service with default settings, built from its routes without any server."""
    settings = Settings.model_construct()
    resources = SimpleNamespace(settings=settings, audit_log=None, metrics=Metrics())
    return create_app(
        cast("Context", SimpleNamespace(settings=settings, token_cache=None, resources=resources))
    ).openapi()


class Rest:
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
        """Return the calls by subject, then the bodies."""
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
        """Return the answers that any call can end with, which the page lists once."""
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
                "required" if field in needed else code(its.get("default")),
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
        """Describe the type of a value and its bounds in a few words."""
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
