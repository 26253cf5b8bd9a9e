"""The OpenAPI document: FastAPI's, with more exact errors, limits and links.

A route declares its own errors (``problems.refusals``). This module adds the errors of all requests and the limits from the
settings. ``make fuzz`` checks the service against the document.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, Final, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ConfigDict

from freshdb_service.api.problems import refusals
from freshdb_service.config import Settings


class FieldError(BaseModel):
    """The error of one field of a request."""

    field: str
    message: str


class Problem(BaseModel):
    """RFC 9457 problem details. ``code`` is stable and the same in the client."""

    model_config = ConfigDict(extra="allow")

    type: Literal["about:blank"] = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    errors: list[FieldError] | None = None


_ANY: Final = (400, 408, 413, 414, 415, 431)
"""Statuses of all requests: malformed, not received in time, too large, or not JSON."""
_ASKING: Final = (401, 403, 422, 429, 503)
"""Statuses of all API requests: authentication, validation, limits, and unavailable servers."""
_FASTAPIS_OWN: Final = ("HTTPValidationError", "ValidationError")


_ONE_LEASE: Final = "/v1/leases/{lease_id}"
_OF_A_LEASE: Final = (
    ("GET", _ONE_LEASE),
    ("DELETE", _ONE_LEASE),
    *(("POST", f"{_ONE_LEASE}/{verb}") for verb in ("renew", "reset", "keep")),
)
_OF_A_POOL: Final = (
    ("GET", "/v1/pools/{pool_id}"),
    ("PATCH", "/v1/pools/{pool_id}"),
    ("GET", "/v1/pools/{pool_id}/history"),
)
_OF_A_BUILD: Final = tuple(
    ("POST", f"/v1/templates/{{template_id}}/{verb}") for verb in ("renew", "ready", "failed")
)
_OF_A_TEMPLATE: Final = (("GET", "/v1/templates/{reference}"), ("DELETE", "/v1/templates/{reference}"))
_LINKS: Final = (
    (("POST", "/v1/leases", "201"), "lease_id", "id", _OF_A_LEASE),
    (("POST", "/v1/leases", "201"), "pool_id", "pool_id", _OF_A_POOL),
    (("POST", "/v1/leases", "201"), "database_id", "database_id", (("GET", "/v1/databases/{database_id}"),)),
    (("POST", "/v1/leases/batch", "201"), "lease_id", "items/0/id", _OF_A_LEASE),
    (("POST", "/v1/templates", "201"), "template_id", "id", _OF_A_BUILD),
    (("POST", "/v1/templates", "201"), "reference", "id", _OF_A_TEMPLATE),
)
"""Links from responses to further requests: response, parameter, position of its value in the response, requests."""


_ANYTHING: Final = "{reference}"
"""The only path parameter whose value may contain slashes."""


def install(app: FastAPI, settings: Settings) -> None:
    """Replace the OpenAPI document of the application."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, settings)
        return app.openapi_schema

    # The documented way to change FastAPI's document.
    app.openapi = openapi  # type: ignore[method-assign]


def _document(app: FastAPI, settings: Settings) -> dict[str, Any]:
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    schemas = document["components"]["schemas"]
    for name in _FASTAPIS_OWN:
        schemas.pop(name, None)
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= problem.pop("$defs")
    schemas["Problem"] = problem
    for path, methods in document["paths"].items():
        for operation in methods.values():
            _complete(operation, asking=path.startswith("/v1/"))
    _bound(schemas, settings)
    _link(document)
    document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    if settings.tokens:
        for path, methods in document["paths"].items():
            for operation in methods.values():
                if path.startswith("/v1/"):
                    operation["security"] = [{"token": []}]
    return document


def allowed(app: FastAPI, path: str) -> list[str]:
    """Return the allowed methods of a path, from the most specific matching path of the document."""
    fitting = [
        (_ANYTHING in template, template.count("{"), sorted(method.upper() for method in methods))
        for template, methods in app.openapi()["paths"].items()
        if _form(template).fullmatch(path)
    ]
    return min(fitting)[-1] if fitting else []


@cache
def _form(template: str) -> re.Pattern[str]:
    parts = re.split(r"(\{\w+\})", template)
    return re.compile(
        "".join(
            ".+" if part == _ANYTHING else "[^/]+" if part.startswith("{") else re.escape(part)
            for part in parts
        )
    )


def _link(document: dict[str, Any]) -> None:
    """Add links from ids in responses to the requests that take them."""
    operations = {
        (method.upper(), path): operation["operationId"]
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    for (method, path, status), parameter, expression, targets in _LINKS:
        answer = document["paths"][path][method.lower()]["responses"][status]
        answer.setdefault("links", {}).update(
            {
                operations[target]: {
                    "operationId": operations[target],
                    "parameters": {parameter: f"$response.body#/{expression}"},
                }
                for target in targets
            }
        )


def _complete(operation: dict[str, Any], *, asking: bool) -> None:
    """Add the errors of all requests."""
    for parameter in operation.get("parameters", ()):
        # Parameters in a path, a query or a header are never null, but omitted.
        schema = parameter["schema"]
        kinds = [kind for kind in schema.pop("anyOf", ()) if kind != {"type": "null"}]
        schema |= kinds[0] if len(kinds) == 1 else {"anyOf": kinds} if kinds else {}
    responses = operation["responses"]
    responses.pop("422", None)  # FastAPI's own
    for status, response in refusals(*_ANY, *(_ASKING if asking else ())).items():
        responses.setdefault(str(status), response)
    operation["responses"] = dict(sorted(responses.items()))


def _bound(schemas: dict[str, Any], settings: Settings) -> None:
    """Add the limits from the settings to the schemas of the bodies."""
    ttl = {"minimum": settings.min_ttl_seconds, "maximum": settings.max_ttl_seconds}
    wait = {"maximum": settings.max_wait_seconds}
    for model, field, bounds in (
        ("AcquireIn", "ttl_seconds", ttl),
        ("RenewIn", "ttl_seconds", ttl),
        ("KeepIn", "ttl_seconds", ttl),
        ("AcquireIn", "wait_seconds", wait),
        ("RegisterIn", "wait_seconds", wait),
        ("RegisterIn", "build_seconds", {"maximum": settings.max_build_seconds}),
    ):
        number = next(one for one in schemas[model]["properties"][field]["anyOf"] if one["type"] == "number")
        number |= bounds
    schemas["BatchIn"]["properties"]["leases"]["maxItems"] = settings.max_batch
