"""Errors as problem details (RFC 9457), with the table of codes and statuses."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final
from uuid import UUID

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from freshdb_service.config import Settings
from freshdb_service.errors import FreshdbError, InvalidRequest
from freshdb_service.observability.metrics import Metrics

STATUS: Final[Mapping[str, HTTPStatus]] = {
    "invalid_request": HTTPStatus.UNPROCESSABLE_ENTITY,
    "idempotency_mismatch": HTTPStatus.UNPROCESSABLE_ENTITY,
    "isolation_unsupported": HTTPStatus.UNPROCESSABLE_ENTITY,
    "template_failed": HTTPStatus.UNPROCESSABLE_ENTITY,
    "malformed_request": HTTPStatus.BAD_REQUEST,
    "request_timeout": HTTPStatus.REQUEST_TIMEOUT,
    "payload_too_large": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "uri_too_long": HTTPStatus.REQUEST_URI_TOO_LONG,
    "unsupported_media_type": HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    "headers_too_large": HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    "unauthorized": HTTPStatus.UNAUTHORIZED,
    "forbidden": HTTPStatus.FORBIDDEN,
    "template_not_found": HTTPStatus.NOT_FOUND,
    "lease_not_found": HTTPStatus.NOT_FOUND,
    "pool_not_found": HTTPStatus.NOT_FOUND,
    "database_not_found": HTTPStatus.NOT_FOUND,
    "token_not_found": HTTPStatus.NOT_FOUND,
    "not_found": HTTPStatus.NOT_FOUND,
    "method_not_allowed": HTTPStatus.METHOD_NOT_ALLOWED,
    "template_conflict": HTTPStatus.CONFLICT,
    "template_building": HTTPStatus.CONFLICT,
    "build_lost": HTTPStatus.CONFLICT,
    "conflict": HTTPStatus.CONFLICT,
    "lease_ended": HTTPStatus.GONE,
    "quota_exceeded": HTTPStatus.TOO_MANY_REQUESTS,
    "pool_exhausted": HTTPStatus.SERVICE_UNAVAILABLE,
    "backend_unavailable": HTTPStatus.SERVICE_UNAVAILABLE,
    "shutting_down": HTTPStatus.SERVICE_UNAVAILABLE,
    "server_refused": HTTPStatus.SERVICE_UNAVAILABLE,
    "configuration_error": HTTPStatus.INTERNAL_SERVER_ERROR,
    "internal_error": HTTPStatus.INTERNAL_SERVER_ERROR,
}

_HTTP_CODES: Final = {
    HTTPStatus.NOT_FOUND: "not_found",
    HTTPStatus.METHOD_NOT_ALLOWED: "method_not_allowed",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "payload_too_large",
}
Responses = dict[int | str, dict[str, Any]]
"""The ``responses`` of a route, for FastAPI."""
MEDIA_TYPE: Final = "application/problem+json"
_NO_FIELDS: Final = frozenset({"body", "query", "path", "header", "<name>", "<object>"})
"""Parts of a place in a request that are no fields: its source, and the form of an extension."""
_RETRIED: Final = frozenset({HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS})
_RETRY_SECONDS: Final = 1
_log = logging.getLogger(__name__)


def problem(
    code: str,
    detail: str,
    *,
    retry_after_seconds: float | None = None,
    extra: Mapping[str, object] | None = None,
) -> JSONResponse:
    """Create the response for an error."""
    status = STATUS[code]
    headers: dict[str, str] = {}
    if status is HTTPStatus.SERVICE_UNAVAILABLE or retry_after_seconds is not None:
        headers["Retry-After"] = str(max(_RETRY_SECONDS, round(retry_after_seconds or _RETRY_SECONDS)))
    if status is HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    body = {
        **(extra or {}),
        "type": "about:blank",
        "title": status.phrase,
        "status": int(status),
        "detail": detail,
        "code": code,
    }
    return JSONResponse(body, status_code=status, headers=headers, media_type=MEDIA_TYPE)


def refusals(*statuses: int) -> Responses:
    """Return the ``responses`` of a route for its errors, for the OpenAPI document."""
    return {status: _refusal(HTTPStatus(status)) for status in statuses}


def _refusal(status: HTTPStatus) -> dict[str, Any]:
    codes = ", ".join(f"`{code}`" for code, its in STATUS.items() if its is status)
    response: dict[str, Any] = {
        "description": f"{status.phrase}: {codes}",
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    if status in _RETRIED:
        always = status is HTTPStatus.SERVICE_UNAVAILABLE  # for some quotas, waiting does not help
        response["headers"] = {
            "Retry-After": {"required": always, "schema": {"type": "integer", "minimum": 1}}
        }
    if status is HTTPStatus.UNAUTHORIZED:
        response["headers"] = {"WWW-Authenticate": {"required": True, "schema": {"type": "string"}}}
    return response


def raw(answer: Response) -> bytes:
    """Serialize a response for a connection that is then closed, without an ASGI application."""
    lines = [f"HTTP/1.1 {answer.status_code} {HTTPStatus(answer.status_code).phrase}".encode()]
    lines += [name + b": " + value for name, value in answer.raw_headers]
    return b"\r\n".join([*lines, b"connection: close", b"", bytes(answer.body)])


def install(app: FastAPI, metrics: Metrics, allowed: Callable[[str], Sequence[str]]) -> None:
    """Install the handlers of all exceptions. ``allowed`` returns the methods of a path."""

    @app.exception_handler(FreshdbError)
    async def _known(_: Request, error: FreshdbError) -> JSONResponse:
        metrics.refusals.labels(error.code).inc()
        return problem(
            error.code, error.message, retry_after_seconds=error.retry_after_seconds, extra=error.extra
        )

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        metrics.refusals.labels("invalid_request").inc()
        errors = [{"field": _field(one), "message": str(one["msg"])} for one in error.errors()]
        return problem("invalid_request", _sentence(errors), extra={"errors": errors})

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        code = _HTTP_CODES.get(HTTPStatus(error.status_code), "invalid_request")
        metrics.refusals.labels(code).inc()
        sentence = f"{request.method} {request.url.path}: {error.detail}"
        extra = (
            {"errors": [{"field": "body", "message": error.detail}]} if code == "invalid_request" else None
        )
        answer = problem(code, sentence, extra=extra)
        answer.headers.update(error.headers or {})
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED and (methods := allowed(request.url.path)):
            answer.headers["Allow"] = ", ".join(methods)
        return answer

    @app.exception_handler(Exception)
    async def _unknown(request: Request, error: Exception) -> JSONResponse:
        _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        metrics.refusals.labels("internal_error").inc()
        return problem("internal_error", "internal error; see the service log for this X-Request-Id")


def invalid(field: str, message: str) -> InvalidRequest:
    """Create the error for one field that violates a limit from the settings."""
    return InvalidRequest(f"{field}: {message}", extra={"errors": [{"field": field, "message": message}]})


def storable(field: str, value: str | None) -> str | None:
    """Return a parameter, unless it has the character that PostgreSQL cannot store."""
    if value is not None and "\x00" in value:
        raise invalid(field, "must not contain the character U+0000")
    return value


def parse_id(text: str, kind: str, source: str, error: type[FreshdbError]) -> UUID:
    """Return the id in a path. Raise ``error`` if it is none. ``source`` is the place where the caller finds one."""
    try:
        return UUID(text)
    except ValueError:
        message = f"{text[:60]!r} is not a {kind} id; send the UUID in {source}"
        raise error(message) from None


def wait_of(asked: float | None, settings: Settings) -> float:
    """Return the wait of a request that asks for ``asked`` seconds."""
    field = "wait_seconds"
    if asked is None:
        return settings.default_wait_seconds
    if asked > settings.max_wait_seconds:
        raise invalid(
            field,
            f"must be at most {settings.max_wait_seconds:g} seconds; to wait longer, send the request again",
        )
    return asked


def _field(error: Mapping[str, Any]) -> str:
    if error["type"] == "json_invalid":  # the position is in the text, not in a field
        return "body"
    parts = (str(part) for part in error["loc"] if part not in _NO_FIELDS)
    return ".".join(parts) or "body"


def _sentence(errors: Sequence[Mapping[str, str]]) -> str:
    return "; ".join(f"{one['field']}: {one['message']}" for one in errors[:5])
