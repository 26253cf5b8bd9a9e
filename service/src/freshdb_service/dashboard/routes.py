"""Serves the page and its files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Content-Security-Policy of the page: only its own files, and no text as markup or code."""
_HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_PAGE: Final = "index.html"
_NOT_MODIFIED: Final = 304
_NOT_FOUND: Final = 404


@dataclass(frozen=True, slots=True)
class _File:
    """A file of the page, with its response headers."""

    content: bytes
    headers: dict[str, str]

    @classmethod
    def of(cls, name: str, content: bytes) -> _File:
        etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        kind = _TYPES[name.rpartition(".")[2]]
        return cls(content, {**_HEADERS, "Content-Type": kind, "ETag": etag})

    def answer(self, request: Request) -> Response:
        """Return the file, or 304 if the browser has this version."""
        if request.headers.get("if-none-match") == self.headers["ETag"]:
            return Response(status_code=_NOT_MODIFIED, headers=self.headers)
        return Response(self.content, headers=self.headers)


def install(app: FastAPI) -> None:
    """Add the dashboard at ``/`` to the application. The page itself needs no token, but its data does."""
    found = {
        one.name: _File.of(one.name, one.read_bytes())
        for one in files(__package__).joinpath("page").iterdir()
        if one.is_file()
    }
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def page(request: Request) -> Response:
        return found[_PAGE].answer(request)

    @router.get("/dashboard/{name}")
    async def file(name: str, request: Request) -> Response:
        if name not in found or name == _PAGE:
            raise HTTPException(_NOT_FOUND, "the dashboard has no such file")
        return found[name].answer(request)

    app.include_router(router)
